// Tiled attention on the dot-product instructions of AVX-512, which Highway 1.0 does not reach: K
// and V in bf16 (VDPBF16PS, sums in f32), or in int8 with whole-number sums (VPDPBUSD, VPDPWSSD).
// Everything multiplies 32-bit words along the summed dimension, the instructions' own layout:
//
//               a word of queries and keys                a word of weights and values
//   bf16 K, V   2 dimensions, bf16                        2 positions, bf16
//   int8 K, V   4 dimensions, int8; keys plus 128, u8     2 positions, int16
//
// int8: what the scales of K and of the query mean is applied to the sums, and the scales of V to
// the weights before they are rounded to 15 bits, so both products are exact.
//
// There are two ways through a tile, and both give the same bits, because every f32 sum is taken by
// one accumulator in ascending order of words:
//   many query rows: PackKeyWords, KeyProduct, softmax, PackValueWords, ValueProduct;
//   few (decode):    ScoreKeys, softmax, MixValues, which keep each packed register for all rows
//                    and store nothing packed, so that K and V stream from memory.
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

#include "absl/types/span.h"
#include "base/bf16.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/upcoming_lines.h"

namespace kvasir {

// Whether this CPU has the instructions (AVX-512 BF16 and VNNI; no CPU has the first alone), and
// Highway's targets (which tests restrict) include AVX-512, and nobody forbade it.
bool HasBf16Products();

// From now on HasBf16Products() is false: cpu_target.h lowers what this process may use.
void ForbidBf16Products();

// Most query rows that ScoreKeys and MixValues take: their accumulators and 16 packed registers
// fill the register file. More rows win by packing once.
inline constexpr size_t kMaxStreamedRows = 12;

// Elements of a query or key word.
template <typename T>
inline constexpr size_t kKeyWordElements = sizeof(uint32_t) / sizeof(T);

// keys: [count][dim]. out[w * out_stride + t] = word w of keys[t], elements past dim being 0;
// columns [count, RoundUpColumns(count)) become words of the value 0. bf16: dim is even.
void PackKeyWords(const bf16* keys, size_t count, size_t dim, const void* ahead, uint32_t* out,
                  size_t out_stride);
void PackKeyWords(const int8_t* keys, size_t count, size_t dim, const void* ahead, uint32_t* out,
                  size_t out_stride);

// Columns [0, width) of values, whose `count` rows are `stride` apart, as one panel:
// out[(t / 2) * kPanelColumns + j] = (values[t][j], values[t + 1][j]); columns
// [width, RoundUpColumns(width)) and the partner of a last odd row become 0. width <=
// kPanelColumns.
void PackValueWords(const bf16* values, size_t count, size_t stride, size_t width,
                    const void* ahead, uint32_t* out);
void PackValueWords(const int8_t* values, size_t count, size_t stride, size_t width,
                    const void* ahead, uint32_t* out);

// c[r][j] = sum over words k of dot(a[r][k], b[k][j]) for j < cols; cols is a multiple of
// kColumnGroup. a: [rows][depth] words of queries; b: [depth][cols] words of keys; c: f32 for bf16,
// s32 for int8, where it is too large by 128 times the sum of the query's elements. Asks for one of
// the `upcoming` lines per word and block of rows.
void KeyProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                size_t b_stride, size_t cols, float* c, size_t c_stride, UpcomingLines* upcoming);
void KeyProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                size_t b_stride, size_t cols, int32_t* c, size_t c_stride, UpcomingLines* upcoming);

// The same with words of weights and of values; nothing is too large.
void ValueProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                  size_t b_stride, size_t cols, float* c, size_t c_stride, UpcomingLines* upcoming);
void ValueProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                  size_t b_stride, size_t cols, int32_t* c, size_t c_stride,
                  UpcomingLines* upcoming);

// Rows of a head's K or V that lie one behind the other: `count` of them, at most kPanelColumns,
// and in all runs of a call but the last a multiple of kColumnGroup. ahead: as above.
template <typename T>
struct RowRun {
  const T* rows;
  size_t count;
  const T* ahead;
};

// scores[r][t] = what KeyProduct gives for query r and key t, t < RoundUpColumns(all runs' keys),
// with keys of 0 beyond the last. queries: [rows][words of dim]; rows <= kMaxStreamedRows.
void ScoreKeys(absl::Span<const RowRun<bf16>> runs, size_t dim, const uint32_t* queries,
               size_t rows, float* scores, size_t scores_stride);
void ScoreKeys(absl::Span<const RowRun<int8_t>> runs, size_t dim, const uint32_t* queries,
               size_t rows, int32_t* scores, size_t scores_stride);

// mix[r][j] = sum over t of weights[r][t] * values[t][j], j < RoundUpColumns(dim). Rows of values
// have `dim` elements and are `stride` apart. weights: [rows][weights_stride] words of two
// positions; an odd count's last partner must be 0. rows <= kMaxStreamedRows.
void MixValues(absl::Span<const RowRun<bf16>> runs, size_t stride, size_t dim,
               const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
               size_t mix_stride);
void MixValues(absl::Span<const RowRun<int8_t>> runs, size_t stride, size_t dim,
               const uint32_t* weights, size_t weights_stride, size_t rows, int32_t* mix,
               size_t mix_stride);

// Turns scores[0:count] into weights 2^(score * scale - max) rounded to bf16; weights[count:padded]
// become 0. `sum` is over the rounded weights, so that the mix stays a true average. scale > 0 (it
// contains log2 e), 1 <= count <= padded, padded a multiple of kColumnGroup.
RowStatistics SoftmaxRowBf16(const float* scores, size_t count, size_t padded, float scale,
                             bf16* weights);

struct Int8RowStatistics : RowStatistics {
  float step;  // of the weights, which times their whole numbers is weight * scale of V
};

// The same for int8 K and V, from KeyProduct's sums: score i is (dots[i] - offset) *
// key_scales[i] * scale, the sum is over the unrounded weights, and weights[i] = weight *
// value_scales[i] / step, rounded. The step is such that the largest is 32767: a chunk of 256
// positions cannot overflow the sums of a mix. Both scales: [RoundUpColumns(count)],
// value_scales >= 0. scores: [RoundUpColumns(count)] of scratch.
Int8RowStatistics SoftmaxRowInt8(const int32_t* dots, int32_t offset, size_t count, size_t padded,
                                 float scale, const float* key_scales, const float* value_scales,
                                 float* scores, int16_t* weights);

// Its two halves, for rows whose scores are changed in between. The first writes scores
// [RoundUpColumns(count)], -infinity beyond count; between them scores[0:count] may be changed, to
// -infinity too, but for one.
void ScoreRowInt8(const int32_t* dots, int32_t offset, size_t count, float scale,
                  const float* key_scales, float* scores);
Int8RowStatistics WeighRowInt8(size_t count, size_t padded, const float* value_scales,
                               float* scores, int16_t* weights);

}  // namespace kvasir
