// SparQ attention (arXiv 2312.04985) over the paged pool: rank all positions by the few dimensions
// in which the query is large, attend exactly to the best ones, and stand in the mean of V for the
// rest.
//
// One query row at position p of its sequence, S = p + 1, for each KV head with its query group:
//   1. dims = the `rank` dimensions with the largest sum of |q| over the group (ties: lower index);
//   2. per query head, logits s[j] = q[dims] . K[j][dims] / tau, tau = sqrt(k_dim * sum|q[dims]| /
//   sum|q|);
//   3. picks = the newest `local_window` positions and, of the others, those with the largest s
//   (one query head) or
//      by SparseSelection (a group shares its picks), `top_k` in all; ties: lower position;
//   4. y = softmax(q . K[picks] * scale) . V[picks];
//   5. with mean_value, y = alpha y + (1 - alpha) mean(V[0..p]), alpha = the mass of softmax(s) on
//   the picks.
// With S <= top_k all positions are picked and the result is dense attention's.
//
// SparseParams has variants of steps 3 and 5 that are not in the paper.
//
// Step 2 reads K columns (kv_layout.h), and K rows behind the last full block. Results do not
// depend on threads, batch or block boundaries beyond f32 rounding of the mean; int8 columns change
// the picks and alpha only.
//
// Not thread safe: owns scratch. Never reads a slot past a row's position.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "runtime/ops/sparse/attention_method.h"
#include "runtime/ops/sparse/sparse_item.h"

namespace kvasir {

// Bytes of the pool that one query row with `positions` cached positions (its own included) reads
// in a layer that ranks for itself. Without least_mass, with which it depends on the scores: there
// top_k positions are assumed.
int64_t SparqBytesRead(const KvLayout& layout, int layer, int64_t positions,
                       const SparseParams& params);

// A request's parameters, by layer: absent where attention stays dense.
class ResolvedSparq : public ResolvedAttention {
 public:
  using LayerParams = std::vector<std::optional<SparseParams>>;  // [layers]

  ResolvedSparq(LayerParams params, int32_t first_position)
      : ResolvedAttention(first_position), params_(std::move(params)) {}

  const SparseParams& params(int layer) const { return *params_[layer]; }

  bool Covers(int layer) const override { return params_[layer].has_value(); }
  int64_t BytesRead(const KvLayout& layout, int layer, int64_t positions) const override {
    return SparqBytesRead(layout, layer, positions, params(layer));
  }

 private:
  const LayerParams params_;
};

class SparqAttention : public SparseAttention {
 public:
  SparqAttention();
  ~SparqAttention() override;

  // kv.k_columns must not be kOff. Picks serve the next layer with reuse_picks alone.
  void Run(int layer, const AttentionQueries& queries, float scale,
           absl::Span<const SparseSequence> sequences, const KvView& kv, MatmulInput* out,
           bool same_kv) override;

 private:
  struct Scratch;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace kvasir
