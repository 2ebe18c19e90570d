#include "runtime/sampling/mass_cut.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace kvasir {
namespace {

// 8 KiB of doubles: stays in the first-level cache, and one level usually isolates a handful of
// candidates.
constexpr int kBuckets = 1024;

// Sorting this few costs less than clearing the buckets once more.
constexpr size_t kSortAtMost = 64;

// Which bucket of [lowest, highest] a value falls in; larger values in lower buckets. Doubles, so
// that the range of two finite floats cannot overflow.
struct Bucketing {
  double highest;
  double buckets_per_unit;

  int operator()(float value) const {
    return std::min(kBuckets - 1, static_cast<int>((highest - value) * buckets_per_unit));
  }
};

}  // namespace

MassCut MassCutFinder::Find(absl::Span<const float> values, absl::Span<const float> weights,
                            double target) {
  KVASIR_CHECK(!values.empty());
  KVASIR_CHECK(weights.empty() || weights.size() == values.size());
  const auto weight = [&](int32_t position) {
    return weights.empty() ? 1.0 : static_cast<double>(weights[position]);
  };
  positions_.resize(values.size());
  std::iota(positions_.begin(), positions_.end(), 0);

  double mass = 0;  // of everything ordered before positions_
  bool all_equal = false;
  while (positions_.size() > kSortAtMost) {
    float lowest = values[positions_[0]];
    float highest = lowest;
    for (const int32_t position : positions_) {
      lowest = std::min(lowest, values[position]);
      highest = std::max(highest, values[position]);
    }
    if (lowest == highest) {
      all_equal = true;
      break;
    }
    const Bucketing bucket_of{highest, kBuckets / (static_cast<double>(highest) - lowest)};
    bucket_mass_.assign(kBuckets, 0.0);
    for (const int32_t position : positions_) {
      bucket_mass_[bucket_of(values[position])] += weight(position);
    }
    // The last bucket stands in when rounding keeps the sum below the target. `lowest` is in it, so
    // it is not empty; and `highest` is in the first, so that every level makes the list shorter.
    int border = 0;
    while (border < kBuckets - 1 && mass + bucket_mass_[border] < target) {
      mass += bucket_mass_[border++];
    }
    positions_.erase(
        std::remove_if(positions_.begin(), positions_.end(),
                       [&](int32_t position) { return bucket_of(values[position]) != border; }),
        positions_.end());
  }
  if (!all_equal) {
    std::sort(positions_.begin(), positions_.end(), [&](int32_t a, int32_t b) {
      return values[a] != values[b] ? values[a] > values[b] : a < b;
    });
  }
  for (const int32_t position : positions_) {
    mass += weight(position);
    if (mass >= target) return {values[position], position};
  }
  return {values[positions_.back()], positions_.back()};
}

}  // namespace kvasir
