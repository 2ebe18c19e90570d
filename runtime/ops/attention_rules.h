// What turns products of queries and keys into weights, and which positions take part: everything
// in which one attention layer's maths may differ from another's. Plain values; borrows its tables.
#pragma once

#include <algorithm>

#include "runtime/ops/tensor.h"

namespace kvasir {

// For a query of head h at position p and a key at position j, p - window < j <= p:
//   s_j = q . k_j * scale,  softcap: s_j = softcap * tanh(s_j / softcap),  ALiBi: s_j += bias(h, j)
//   out = sum of exp(s_j) v_j / (sum of exp(s_j) + exp(sink_h))
// ALiBi, arXiv 2108.12409: bias(h, j) = slope_h * (j - p). Adding a constant to all of a row's
// scores changes nothing, so this equals slope_h * j, and loses no digits at long distances.
struct AttentionRules {
  float scale = 0;                      // > 0
  int window = 0;                       // 0 = every position up to p
  float softcap = 0;                    // 0 = none
  const float* sinks = nullptr;         // [query heads], or null
  const float* alibi_slopes = nullptr;  // [query heads], or null
  // Falcon's ALiBi: slope and slope * j are rounded to bf16, and the bias joins before the scale:
  // bias(h, j) = (bf16(bf16(slope_h) * j) - bf16(bf16(slope_h) * p)) * scale.
  bool alibi_rounded = false;

  // The first position that a query at `position` sees.
  int FirstSeen(int position) const { return window > 0 ? std::max(0, position - window + 1) : 0; }
  // Whether scores are more than scaled products.
  bool reshapes_scores() const { return softcap > 0 || alibi_slopes != nullptr; }
};

// The query rows of a batch.
struct AttentionQueries {
  MatrixView q;  // [rows][num_heads * k_dim], after rotation
  int num_heads = 0;
  // [rows][num_heads * v_dim]: every output is times its sigmoid; data null = none.
  MatrixView gate;
};

}  // namespace kvasir
