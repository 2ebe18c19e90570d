#include "runtime/engine/speculation/draft_lengths.h"

#include <algorithm>

namespace kvasir {
namespace {

// Weight of the newest judged token: some ten tokens tell whether a quotation has begun or ended.
constexpr double kNewest = 0.15;
// Below this gain measurements decide nothing, and plain decoding it is.
constexpr double kMinGain = 1.03;
// Steps between two tries of a sequence whose drafts do not pay: at worst one step in 32 checks two
// tokens for nothing, later one in 512.
constexpr int32_t kFirstProbeInterval = 32;
constexpr int32_t kLongestProbeInterval = 512;

}  // namespace

void AcceptanceRate::Note(int32_t drafted, int32_t accepted) {
  for (int32_t i = 0; i < accepted; ++i) rate_ += kNewest * (1 - rate_);
  if (accepted < drafted) rate_ -= kNewest * rate_;
  passed_over_ = 0;
  if (accepted > 0) probe_interval_ = kFirstProbeInterval;
}

bool AcceptanceRate::ProbeDue() {
  if (probe_interval_ == 0) probe_interval_ = kFirstProbeInterval;
  if (++passed_over_ < probe_interval_) return false;
  passed_over_ = 0;
  probe_interval_ = std::min(2 * probe_interval_, kLongestProbeInterval);
  return true;
}

std::vector<int32_t> ChooseDraftLengths(absl::Span<const DraftCandidate> candidates,
                                        int32_t sequences, int32_t room, const StepCost& cost,
                                        double draft_seconds) {
  std::vector<int32_t> lengths(candidates.size(), 0), best = lengths;
  std::vector<double> chances;  // that the next token of each is reached and right
  for (const DraftCandidate& candidate : candidates) chances.push_back(candidate.rate);

  double tokens = sequences;
  double best_rate = kMinGain * tokens / cost.Predict(sequences, 0);
  for (int32_t drafted = 1; drafted <= room; ++drafted) {
    int next = -1;
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (lengths[i] >= candidates[i].most) continue;
      if (next < 0 || chances[i] > chances[next]) next = static_cast<int>(i);
    }
    if (next < 0) break;
    tokens += chances[next];
    chances[next] *= candidates[next].rate;
    ++lengths[next];
    const double seconds = cost.Predict(sequences, drafted) + drafted * draft_seconds;
    if (tokens / seconds > best_rate) best = lengths, best_rate = tokens / seconds;
  }
  return best;
}

}  // namespace kvasir
