// How K/V projections become fewer: heads of one layer pooled in groups, then layers merged. The
// recipes of the papers, on weights and biases alike (K and V are linear in both):
//
//   heads   mean    each group's mean                       (GQA, arXiv 2305.13245)
//           first   each group's first head                 (there for comparison)
//           random  drawn anew                              (there for comparison)
//   layers  first   the first layer's                       (CLA, arXiv 2405.12981)
//           mean    the mean of all                         (MLKV, arXiv 2406.09297, as described)
//           running a <- (a + next) / 2 from layer to layer (MLKV as its published code does it: of
//                   three layers with weights 1/4, 1/4, 1/2)
//
// Used once per tensor, by one thread. Sums are f64, so that a mean is rounded once.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace kvasir {

enum class HeadRecipe { kMean, kFirst, kRandom };
enum class LayerRecipe { kFirst, kMean, kRunningMean };

class KvMerge {
 public:
  // Into `groups` heads of `head_values` values each (rows of a head times columns; for a bias,
  // rows). kRandom is none of these sums: CHECKed.
  KvMerge(HeadRecipe heads, LayerRecipe layers, int groups, int64_t head_values);

  // The next layer's [heads][head_values]; heads is a multiple of `groups`.
  void Add(absl::Span<const float> values);
  // Further layers would change nothing.
  bool complete() const { return layers_ == LayerRecipe::kFirst && count_ > 0; }

  // [groups][head_values]. At least one layer was added.
  std::vector<float> Result() const;

 private:
  // The value of element `i` of group `group` in one layer of `group_heads` heads per group.
  double Pooled(absl::Span<const float> values, int64_t group, int64_t group_heads,
                int64_t i) const;

  const HeadRecipe heads_;
  const LayerRecipe layers_;
  const int groups_;
  const int64_t head_values_;
  int count_ = 0;  // layers so far
  std::vector<double> sum_;
};

}  // namespace kvasir
