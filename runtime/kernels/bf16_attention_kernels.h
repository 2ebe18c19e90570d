// Tiled attention on the bf16 dot-product instructions of AVX-512 (VDPBF16PS), which Highway 1.0
// does not reach. Everything multiplies pairs along the summed dimension; a packed B[k/2][column]
// holds (b[k][column], b[k+1][column]) in one 32-bit word, the instruction's own layout.
//
// There are two ways through a tile, and both give the same bits, because every sum is taken by one
// accumulator in ascending order of pairs:
//   many query rows: PackKeyPairs, TileProductPairs, SoftmaxRowBf16, PackValuePairs,
//   TileProductPairs; few (decode):    ScoreKeys, SoftmaxRowBf16, MixValues, which keep each packed
//   register for all rows and store
//                    nothing packed, so that K and V stream from memory.
//
// Rows of K and V mostly come from memory, so the functions that read them also prefetch: `ahead`
// is where rows of the same kind begin that will be read soon (null: none). One line is asked for
// per line read; a burst of requests would only fill the core's table of outstanding misses
// (measured: 11 against 30 GB/s on one core).
//
// Only callable when HasBf16Products(). Raw pointers, strides count elements of the pointed-to
// type. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/base/bf16.h"
#include "runtime/kernels/attention_kernels.h"

namespace kvasir {

// Whether this CPU has the instructions, and Highway's targets (which tests restrict) include
// AVX-512, and nobody forbade it.
bool HasBf16Products();

// From now on HasBf16Products() is false: cpu_target.h lowers what this process may use.
void ForbidBf16Products();

// Most query rows that ScoreKeys and MixValues take: their accumulators and 16 packed registers
// fill the register file. More rows win by packing once.
inline constexpr size_t kMaxStreamedRows = 12;

// keys: [count][dim], dim even. out[(d / 2) * out_stride + t] = (keys[t][d], keys[t][d + 1]);
// columns [count, RoundUpColumns(count)) become 0. int8 values convert exactly; their scales are
// applied to the scores.
void PackKeyPairs(const bf16* keys, size_t count, size_t dim, const void* ahead, uint32_t* out,
                  size_t out_stride);
void PackKeyPairs(const int8_t* keys, size_t count, size_t dim, const void* ahead, uint32_t* out,
                  size_t out_stride);

// values: [count][dim]. Column j of rows t and t + 1 becomes one word of panel j / kPanelColumns:
// out[panel * panel_stride + (t / 2) * kPanelColumns + j % kPanelColumns] = (values[t][j],
// values[t + 1][j]); columns [dim, RoundUpColumns(dim)) and the partner of a last odd row become 0.
void PackValuePairs(const bf16* values, size_t count, size_t dim, const void* ahead, uint32_t* out,
                    size_t panel_stride);
void PackValuePairs(const int8_t* values, size_t count, size_t dim, const void* ahead,
                    uint32_t* out, size_t panel_stride);

// c[r][j] = sum over pairs k of dot(a[r][k], b[k][j]) for j < cols; cols is a multiple of
// kColumnGroup. a: [rows][depth_pairs] as 32-bit words, a_stride in words.
void TileProductPairs(const uint32_t* a, size_t a_stride, size_t rows, size_t depth_pairs,
                      const uint32_t* b, size_t b_stride, size_t cols, float* c, size_t c_stride);

// scores[r][t] = dot(query r, keys[t]) for t < RoundUpColumns(count), 0 beyond count. queries:
// [rows][dim / 2] words; rows <= kMaxStreamedRows.
void ScoreKeys(const bf16* keys, size_t count, size_t dim, const void* ahead,
               const uint32_t* queries, size_t rows, float* scores, size_t scores_stride);
void ScoreKeys(const int8_t* keys, size_t count, size_t dim, const void* ahead,
               const uint32_t* queries, size_t rows, float* scores, size_t scores_stride);

// mix[r][j] += sum over t of weights[r][t] * values[t][j] for j < RoundUpColumns(dim). weights:
// [rows][stride] words of two positions; an odd count's last partner must be 0. rows <=
// kMaxStreamedRows.
void MixValues(const bf16* values, size_t count, size_t dim, const void* ahead,
               const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
               size_t mix_stride);
void MixValues(const int8_t* values, size_t count, size_t dim, const void* ahead,
               const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
               size_t mix_stride);

// Turns scores[0:count] into weights 2^(score * scale - max) rounded to bf16; weights[count:padded]
// become 0. `sum` is over the rounded weights, so that the mix stays a true average. Overwrites
// scores. scale > 0 (it contains log2 e), 1 <= count <= padded, padded a multiple of kColumnGroup.
RowStatistics SoftmaxRowBf16(float* scores, size_t count, size_t padded, float scale,
                             bf16* weights);

// The same for int8 K and V: score[i] *= key_scales[i] before, weights[i] *= value_scales[i] after
// the (unrounded) sum is taken. Both [RoundUpColumns(count)]; padding must be finite.
RowStatistics SoftmaxRowBf16(float* scores, size_t count, size_t padded, float scale,
                             const float* key_scales, const float* value_scales, bf16* weights);

}  // namespace kvasir
