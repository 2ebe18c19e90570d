// Products of sparse attention on the bf16 dot-product instructions of AVX-512 (VDPBF16PS): ranking
// for whole query groups, and attention to rows that lie scattered in the pool. pick_kernels.h has
// the same in f32 for every CPU.
//
// Two bf16 in a 32-bit word are a pair, the instruction's operand. Queries are rounded to bf16,
// sums are f32.
//
// Only callable when HasBf16Products() (bf16_attention_kernels.h). Raw pointers; strides count
// elements of the pointed-to type. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/pick_kernels.h"

namespace kvasir {

// ---- ranking ----

// out[i / 2][t] = (columns[dims[i]][t], columns[dims[i + 1]][t]) for even i < rank; an odd rank's
// last partner is 0. columns: [k_dim][count], count a multiple of 16; out: rows out_stride apart.
void PackColumnPairs(const bf16* columns, size_t count, const int32_t* dims, size_t rank,
                     uint32_t* out, size_t out_stride);
// The same of int8 columns: element * scales[dim], rounded to bf16. scales: [k_dim].
void PackColumnPairs(const int8_t* columns, const float* scales, size_t count, const int32_t* dims,
                     size_t rank, uint32_t* out, size_t out_stride);

// max[h] = the largest q_h . column t, t < count. queries: [heads][pairs]; columns: [pairs], stride
// apart, readable to a multiple of 16.
void MaxOfColumns(const uint32_t* queries, size_t heads, size_t pairs, const uint32_t* columns,
                  size_t stride, size_t count, float* max);

// In units of which queries hold base-2 logits: steps of a bf16 between two powers of two.
inline constexpr float kLogitUnits = 128.0f;

// The weights w_h[t] = 2^((q_h . column t - references[h]) / kLogitUnits), t < count, of an even
// number of heads: pair h / 2 of `weights` gets (w_h[t], w_h+1[t]) as bf16, and 0 up to a multiple
// of 16. Each is within 1 % of the true one: its 8 bits are looked up, not computed further. sums:
// [heads][16], to which a head's weights are added, whichever of the 16. Too large weights are
// infinite and their sums not finite.
void WeighColumns(const uint32_t* queries, size_t heads, size_t pairs, const uint32_t* columns,
                  size_t stride, size_t count, const float* references, uint32_t* weights,
                  size_t weights_stride, float* sums);

// The same of 64 columns that need no packing, or 32: each 32 of the rows `dims` of [k_dim] rows,
// row_stride apart, at `first` and, unless that is null, at `second`.
void WeighColumnRows(const uint32_t* queries, size_t heads, const bf16* first, const bf16* second,
                     size_t row_stride, const int32_t* dims, size_t rank, const float* references,
                     uint32_t* weights, size_t weights_stride, float* sums);

// out[t] = sum over heads of w_h[t] * factor_h, t < n; writes and reads to a multiple of 16.
// factors: [head_pairs].
void SumWeights(const uint32_t* weights, size_t weights_stride, size_t head_pairs,
                const uint32_t* factors, size_t n, float* out);

// ---- scattered rows: lists as in pick_kernels.h, with RowsAhead readable entries behind them
// ----

// Whether rows of so many elements suit the kernels below.
inline bool SuitsRowPairs(size_t dim) { return dim % 16 == 0; }

// Query heads are scored four at a time (a quad), 8 dimensions to a step: words [quads][dim /
// 8][16], of which word 4r + j is pair j of the 8 dimensions of head r; heads that do not exist are
// 0.
inline size_t QuadsOf(size_t heads) { return (heads + 3) / 4; }
// How many rows ahead are prefetched, by so many quads: with several the whole list behind this
// one, for they pass over the rows in turn.
inline size_t RowsAhead(size_t count, size_t quads) { return quads > 1 ? count : kRowsAhead; }
void PackQuads(const float* q, size_t heads, size_t dim, uint32_t* out);

// scores[h][t] = q_h . rows[t] for t < count; writes to a multiple of 4, and heads to a whole quad.
void ScoreRowPairs(const bf16* const* rows, size_t count, size_t dim, const uint32_t* quads,
                   size_t heads, float* scores, size_t stride);

// Turns scores[0:count] into weights 2^(score * scale - max) rounded to bf16, and 0 up to a
// multiple of 32; `sum` is over the rounded weights, so that the mix stays a true average.
// Overwrites the scores up to there. scale > 0.
RowStatistics WeighRowPairs(float* scores, size_t count, float scale, bf16* weights);

// mix[h][d] = sum over t of weights[h][t] * rows[t][d]. weights: [heads], weights_stride apart, 0
// beyond an odd count.
void MixRowPairs(const bf16* const* rows, size_t count, size_t dim, const bf16* weights,
                 size_t weights_stride, size_t heads, float* mix, size_t mix_stride);

}  // namespace kvasir
