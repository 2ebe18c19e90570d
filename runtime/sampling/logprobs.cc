#include "runtime/sampling/logprobs.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "runtime/sampling/row_kernels.h"

namespace kvasir {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// The `count` largest (token, logit), best first; ties: lower id first. Every one of the `count`
// best blocks holds a value of at least `bound`, so the other blocks cannot hold an alternative and
// are not read.
std::vector<std::pair<TokenId, float>> LargestLogits(absl::Span<const float> logits,
                                                     const std::vector<float>& maxima,
                                                     size_t count) {
  std::vector<std::pair<TokenId, float>> best;
  if (count == 0) return best;
  float bound = kNegativeInfinity;
  if (count <= maxima.size()) {
    std::vector<float> ordered = maxima;
    std::nth_element(ordered.begin(), ordered.begin() + (count - 1), ordered.end(),
                     std::greater<float>());
    bound = ordered[count - 1];
  }
  best.reserve(count + 1);
  for (size_t block = 0; block < maxima.size(); ++block) {
    if (maxima[block] < bound) continue;
    const size_t end = std::min((block + 1) * kRowBlock, logits.size());
    for (size_t i = block * kRowBlock; i < end; ++i) {
      const float value = std::min(logits[i], kLargest);  // NaN stays and fails the next comparison
      if (!(value > (best.size() < count ? kNegativeInfinity : best.back().second))) continue;
      // Behind its equals, which have lower ids.
      const auto place =
          std::upper_bound(best.begin(), best.end(), value,
                           [](float wanted, const auto& other) { return wanted > other.second; });
      best.insert(place, {static_cast<TokenId>(i), value});
      if (best.size() > count) best.pop_back();
    }
  }
  return best;
}

}  // namespace

TokenLogprob LogprobOf(absl::Span<const float> logits, TokenId target, int num_alternatives) {
  KVASIR_CHECK(target >= 0 && static_cast<size_t>(target) < logits.size());
  TokenLogprob result{target, kNegativeInfinity, {}};

  std::vector<float> blocks(NumRowBlocks(logits.size()));
  BlockMaxima(logits.data(), logits.size(), blocks.data());
  const float max = *std::max_element(blocks.begin(), blocks.end());
  if (max == kNegativeInfinity) return result;

  if (num_alternatives > 0) {
    const size_t count = std::min<size_t>(num_alternatives, logits.size());
    result.alternatives = LargestLogits(logits, blocks, count);
  }
  BlockExpSums(logits.data(), logits.size(), max, 1.0f, blocks.data());
  double sum = 0;
  for (const float block : blocks) sum += block;

  // In double: the largest float's distance to the smallest does not fit a float.
  const double log_sum = std::log(sum) + max;
  const auto logprob = [log_sum](float logit) { return static_cast<float>(logit - log_sum); };
  if (logits[target] > kNegativeInfinity) {  // false for NaN
    result.logprob = logprob(std::min(logits[target], kLargest));
  }
  for (auto& alternative : result.alternatives) alternative.second = logprob(alternative.second);
  return result;
}

}  // namespace kvasir
