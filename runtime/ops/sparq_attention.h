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
//      by SparqSelection (a group shares its picks), `top_k` in all; ties: lower position;
//   4. y = softmax(q . K[picks] * scale) . V[picks];
//   5. with mean_value, y = alpha y + (1 - alpha) mean(V[0..p]), alpha = the mass of softmax(s) on
//   the picks.
// With S <= top_k all positions are picked and the result is dense attention's.
//
// SparqParams has variants of steps 3 and 5 that are not in the paper, and other ways to choose
// positions, which are for comparison. They share everything behind the choice.
//
// Step 2 reads K columns (kv_layout.h), and K rows behind the last full block. Results do not
// depend on threads, batch or block boundaries beyond f32 rounding of the mean; int8 columns change
// the picks and alpha only.
//
// Not thread safe: owns scratch. Never reads a slot past a row's position.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "kvcache/kv_view.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/paged_attention.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// How the query heads of a group agree on positions.
enum class SparqSelection {
  kSoftmaxSum,  // the largest sum of softmax(s): no head outweighs the others by the size of its
                // logits (paper)
  kLogitSum,  // the largest sum of s: the rule of the published evaluation code; cheaper for large
              // groups
};

// By what positions are chosen. Only kDims is meant for serving; the others are what it is compared
// with, and have no mean value.
enum class SparseRanking {
  kDims,         // SparQ's few dimensions of K
  kExact,        // the true scores: SparQ with rank = k_dim, which ResolveSparq sees to
  kWindow,       // nothing: the first positions and the newest (StreamingLLM, LM-Infinite)
  kBlockBounds,  // whole blocks, by a bound of their scores (Quest)
};

struct SparqParams {
  int32_t rank = 0;          // 1 to k_dim
  int32_t top_k = 0;         // positions attended to, >= 1, the local window included
  int32_t local_window = 0;  // newest positions always attended to, 0 to top_k
  bool mean_value = false;
  SparqSelection selection = SparqSelection::kSoftmaxSum;

  // Beyond the paper, all off by default.
  // With mean_value: the mean over the positions that were not picked, whose mass it stands in for,
  // not over all.
  bool mean_of_unselected = false;
  // Above 0: the picks grow beyond top_k, best first, until alpha (the mean over the group's heads)
  // reaches least_mass or they are max_top_k (>= top_k).
  float least_mass = 0;
  int32_t max_top_k = 0;
  // Layers in a row that read the same K/V take the picks and alpha of the first of them and rank
  // nothing.
  bool reuse_picks = false;

  SparseRanking ranking = SparseRanking::kDims;
};

struct SparqSequence {
  AttentionSequence sequence;
  SparqParams params;
  int64_t* bytes_read = nullptr;  // what its rows read of the pool is added here, unless null
};

// Bytes of the pool that one query row with `positions` cached positions (its own included) reads
// in a layer that ranks for itself. Without least_mass, with which it depends on the scores: there
// top_k positions are assumed.
int64_t SparqBytesRead(const KvLayout& layout, int layer, int64_t positions,
                       const SparqParams& params);

class SparqAttention {
 public:
  SparqAttention();
  ~SparqAttention();

  // As PagedAttention::Run with no rules but a scale. Writes only the rows of `sequences`, so dense
  // attention may write the others before it. kv.sparq_keys must not be kOff. `same_kv`: the call
  // before this one had the same sequences and the same K/V, so reuse_picks may take its picks.
  void Run(const AttentionQueries& queries, float scale, absl::Span<const SparqSequence> sequences,
           const KvView& kv, MatmulInput* out, bool same_kv = false);

 private:
  struct Scratch;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace kvasir
