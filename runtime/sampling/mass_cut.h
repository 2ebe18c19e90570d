// MassCutFinder: where does a sorted list of candidates reach a given mass, without sorting it?
//
// The one question behind top-k (every candidate weighs 1, target k) and top-p (weight =
// probability). Candidates are ordered by value, largest first, equal values by position. Method:
// mass per bucket of the value range, then the same inside the one bucket where the target falls.
// Every level drops the range by the number of buckets, so that even the worst input ends after a
// few linear passes (quickselect's quadratic case does not exist).
//
// Owns scratch that grows with the input; not thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace kvasir {

// The last candidate inside. Keeping a set by its border instead of listing it leaves candidates in
// id order, and a walk over ids moves little when a logit changes by a rounding error (batched
// versus alone).
struct MassCut {
  float value;
  int32_t position;

  bool Keeps(float other_value, int32_t other_position) const {
    return other_value > value || (other_value == value && other_position <= position);
  }
};

class MassCutFinder {
 public:
  // The shortest run of the ordered candidates with a mass of at least `target`; all of them when
  // the whole mass is less. At least one candidate is kept. values: [n], n >= 1, none NaN or
  // infinite. weights: [n], >= 0, or empty when each weighs 1.
  MassCut Find(absl::Span<const float> values, absl::Span<const float> weights, double target);

 private:
  std::vector<int32_t> positions_;   // candidates among which the border still lies, ascending
  std::vector<double> bucket_mass_;  // [kBuckets]
};

}  // namespace kvasir
