// Exact speculative decoding: a step computes, behind a sequence's newest token, a few guessed
// ones, and draws at each of their positions what plain decoding would draw there. As long as what
// is drawn is what was guessed, the next position's logits are the right ones already: one pass of
// the model yields several tokens.
//
// Exact: the draw at a position depends on its logits, its own random number (sampler.h) and the
// tokens before it alone, so at any temperature, with penalties, biases and stops, the accepted
// tokens are those that one step after another would have drawn (Leviathan et al., "Fast Inference
// from Transformers via Speculative Decoding", 2023, keep the distribution; a fixed random number
// per position keeps the tokens too). Logits are equal as far as they are in any batch: to the bit
// in products of int8, to rounding elsewhere.
//
// Undone exactly: K/V of a position are committed once its token is accepted, so nothing that was
// guessed can be found by others, leaves a window early or outlives the step. A recurrent state has
// no way back: models that have one do not speculate.
//
// Drafts take what a step leaves over: budget, rows of logits, blocks that nobody needs. They
// preempt nobody; quotas and turns count accepted tokens only.
//
// Owned and called by the engine thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "kvcache/kv_layout.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/speculation/draft_lengths.h"
#include "runtime/engine/speculation/drafter.h"
#include "runtime/engine/speculation/ngram_drafter.h"
#include "runtime/engine/speculation/step_cost.h"
#include "runtime/engine/step_plan.h"

namespace kvasir {

// Whether a model of this layout can take back what it computed.
inline bool CanSpeculate(const KvLayout& layout) { return !layout.has_state(); }

class Speculator {
 public:
  // Borrows the drafter of requests in SpeculationMode::kDraft; without one they have no drafts.
  Speculator(bool possible, Drafter* draft_model, const Clock* clock)
      : possible_(possible), draft_model_(draft_model), clock_(clock) {}

  // Gives sequences that decode in the plan their drafts, and reserves the blocks for them.
  void AddDrafts(Scheduler* scheduler, StepPlan* plan);

  // A step's pass of the model took this long.
  void NoteStep(const StepPlan& plan, absl::Duration model_time);
  // Of a sequence's draft the first `accepted` tokens were right.
  void NoteVerified(Sequence* sequence, int32_t drafted, int32_t accepted);

 private:
  // A sequence of the plan that could check a draft.
  struct Candidate {
    ScheduledSequence* item = nullptr;
    Drafter* drafter = nullptr;
    int32_t max_tokens = 0;      // that it may check
    std::vector<TokenId> draft;  // of a free drafter: all that it has
  };
  // Most tokens that are worth drafting for this item: 0 where it does not speculate.
  int32_t MostTokens(const ScheduledSequence& item) const;
  Drafter* DrafterOf(const Sequence& sequence);
  std::vector<Candidate> Candidates(StepPlan* plan, int32_t room);
  // Asks the draft model for all of these sequences at once, for lengths[i] tokens each, and learns
  // what its tokens cost.
  void AskDraftModel(absl::Span<const int32_t> lengths, absl::Span<Candidate> candidates);

  const bool possible_;
  Drafter* const draft_model_;
  const Clock* const clock_;
  NgramDrafter ngrams_;
  StepCost cost_;
  AcceptanceRate overall_;
  double draft_seconds_ = 0;  // of one token of a drafter that is not free; moving average
};

}  // namespace kvasir
