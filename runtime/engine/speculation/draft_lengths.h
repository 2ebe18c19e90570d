// How many drafted tokens a step should check: as many as raise the tokens per second, none when
// none do. Pure but for AcceptanceRate, a sequence's own state; no threads, no clock.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "runtime/engine/speculation/step_cost.h"

namespace kvasir {

// How often a sequence's drafted tokens were right of late, and when to try again once they are not
// worth a row.
class AcceptanceRate {
 public:
  // What it starts from: the rate of the sequences before it.
  explicit AcceptanceRate(double initial_rate = 0.7) : rate_(initial_rate) {}

  // A step checked `drafted` tokens (>= 1), the first `accepted` of which were right. Those behind
  // the first wrong one were never judged.
  void Note(int32_t drafted, int32_t accepted);
  // The chance that a drafted token is right, when all before it are.
  double rate() const { return rate_; }

  // Called for each step that could check a draft and does not; whether this one should all the
  // same, to learn whether the text has changed. Ever more seldom while that finds nothing.
  bool ProbeDue();

 private:
  double rate_;
  int32_t passed_over_ = 0;     // steps
  int32_t probe_interval_ = 0;  // steps; set by the first ProbeDue
};

struct DraftCandidate {
  double rate = 0;   // AcceptanceRate's
  int32_t most = 0;  // tokens that can be drafted
};

// The number of drafted tokens for each candidate, together at most `room`, that makes the step's
// expected tokens per expected second the most: chances in falling order while they pay. The step
// decodes `sequences` in all; a drafted token costs `draft_seconds` beside the step.
std::vector<int32_t> ChooseDraftLengths(absl::Span<const DraftCandidate> candidates,
                                        int32_t sequences, int32_t room, const StepCost& cost,
                                        double draft_seconds = 0);

}  // namespace kvasir
