// Multi-head latent attention (DeepSeek V2 and V3) in its absorbed form: all heads attend to one
// row of kv_rank + rope_dim values per token, whose first kv_rank values are also V. W_UK is
// multiplied into the queries, W_UV into the outputs:
//   q~_h = [W_UK_h^T q_nope_h | rope(q_pe_h)],  k = [norm(c) | rope(k_pe)],
//   out_h = W_UV_h (softmax(scale q~_h k) norm(c))
// which equals attention over keys and values expanded per head, and reads (kv_rank + rope_dim)
// values per token instead of heads * (nope_dim + rope_dim + v_dim).
//
// Owns scratch: one per Decoder, not thread safe.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "kvcache/kv_view.h"
#include "runtime/model/layer_spec.h"
#include "runtime/model/layer_weights.h"
#include "runtime/ops/attention_rules.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/paged_attention.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class LatentAttention {
 public:
  explicit LatentAttention(ComputeType compute_type)
      : query_latents_(compute_type),
        head_input_(compute_type),
        attended_(compute_type),
        mixed_(compute_type) {}

  // Writes the latent rows of x, [rows, hidden], into the pool; positions and slot_blocks as
  // WriteKv's.
  void StoreKv(const AttentionSpec& spec, const AttentionWeights& weights, RopeView rope,
               const MatmulInput& x, absl::Span<const int32_t> positions,
               absl::Span<const BlockId> slot_blocks, const KvView& kv);

  // out = o(attention of x's rows), [rows, hidden], or += with accumulate; room for
  // RoundUpRows(rows).
  void Attend(const AttentionSpec& spec, const AttentionWeights& weights, RopeView rope,
              const MatmulInput& x, absl::Span<const int32_t> positions,
              absl::Span<const AttentionSequence> sequences, const KvView& kv, MatrixView out,
              bool accumulate);

 private:
  // [rows, heads * (kv_rank + rope_dim)]: rotated, W_UK absorbed.
  MatrixView Queries(const AttentionSpec& spec, const AttentionWeights& weights, RopeView rope,
                     const MatmulInput& x, absl::Span<const int32_t> positions);

  PagedAttention attention_;
  MatmulInput query_latents_;       // [rows, q_rank]
  MatmulInput head_input_;          // [rows, nope_dim] or [rows, kv_rank] of one head
  MatmulInput attended_;            // [rows, heads * kv_rank]
  MatmulInput mixed_;               // [rows, heads * v_dim]
  AlignedBuffer<float> projected_;  // [rows][q_rank]
  AlignedBuffer<float> rows_;       // [rows][kv_rank + rope_dim]: what is stored
  AlignedBuffer<float> queries_;    // [rows][heads][nope_dim + rope_dim]
  AlignedBuffer<float> absorbed_;   // [rows][heads][kv_rank + rope_dim]
  AlignedBuffer<float> values_;     // [rows][heads][v_dim]
};

}  // namespace kvasir
