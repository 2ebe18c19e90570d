// Two operations between the products: rotary embedding, and writing K/V into the pool. (Norms and
// activations: layers/norm.h, layers/activation.h.) Parallel over rows through ParallelFor;
// arithmetic in f32 in Highway kernels (runtime/kernels). No allocation, no errors: preconditions
// are the caller's.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kvcache/kv_view.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// cos and sin of the rotation angles: tables [max_positions][rotary_dim / 2].
struct RopeView {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int rotary_dim =
      0;  // <= head_dim; the first rotary_dim of each head are rotated, halves paired (Llama, HF)
};

// Rotates heads [num_heads][head_dim] in place in each row; row r has position positions[r].
void ApplyRope(MatrixView x, int num_heads, int head_dim, absl::Span<const int32_t> positions,
               RopeView rope);

// Stores rows of K and V into the pool: row r goes to slot positions[r] of its sequence, whose
// block is slot_blocks[r] (already looked up: block_table[position / block_tokens]). k:
// [rows][kv_heads][k_dim], v: [rows][kv_heads][v_dim]; one whose data is null is not written.
// Converts to the view's element type (int8: scale = max|x| / 127 per row and head).
void WriteKv(MatrixView k, MatrixView v, absl::Span<const int32_t> positions,
             absl::Span<const BlockId> slot_blocks, const KvView& kv);

}  // namespace kvasir
