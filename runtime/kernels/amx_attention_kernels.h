// Tiled attention on AMX (TDPBF16PS, TDPBSUD, TDPBSSD, TDPBUSD), beside the AVX-512 kernels of
// bf16_attention_kernels.h: the packed words are the same, and their order in memory is the tiles'
// own. A CPU with AMX does 16 x 16 x 32 bf16 products in 16 cycles, where VDPBF16PS takes 2 cycles
// for 16 x 2 on Intel: the products become cheap, and what is left is packing and softmax.
//
//   A tile (16 rows of 16 words):   queries or weights, words along the summed dimension
//   B tile (16 words of 16 columns): packed keys or values; or queries as columns (ScoreKeys)
//
// Every f32 sum takes the words in ascending order, 16 words to an instruction: a row's result does
// not depend on its tile, and ScoreKeys gives the same bits as KeyProduct. They differ from the
// AVX-512 kernels' in rounding (TDPBF16PS adds even and odd elements apart); whole-number sums are
// equal to the bit.
//
// Only callable when HasAmxProducts(), the products and AmxScoreKeys between
// ConfigureAmxTiles and ReleaseAmxTiles. Raw pointers,
// strides count elements of the pointed-to type. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "runtime/kernels/upcoming_lines.h"

namespace kvasir {

// Whether this CPU has AMX with bf16 and int8, the system lets this process use it,
// HasBf16Products() holds, and nobody forbade it.
bool HasAmxProducts();

// From now on HasAmxProducts() is false.
void ForbidAmxProducts();

// Configures this thread's tiles (all 16 rows of 64 bytes); releases them. oneDNN configures its
// own for each product, and a thread that holds tiles has more state to save at each switch.
void ConfigureAmxTiles();
void ReleaseAmxTiles();

// Rows of an A tile and columns of a B tile.
inline constexpr size_t kAmxRows = 16;
// Words along the summed dimension that one instruction takes: depths are multiples of it.
inline constexpr size_t kAmxWords = 16;

inline size_t RoundUpAmx(size_t n) { return (n + kAmxRows - 1) / kAmxRows * kAmxRows; }

// c[r][j] = sum over words k of dot(a[r][k], b[k][j]) for r < rows, or += with `accumulate` (then c
// has room for RoundUpAmx(rows) rows, all of them numbers). depth and cols are multiples of
// 16; a must have room for RoundUpAmx(rows) rows, of which those past `rows` may hold anything.
// float: words of two bf16; int32: words of four int8 in a (queries) and of four u8 in b (keys plus
// 128). Asks for `upcoming` lines meanwhile.
void AmxProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                size_t b_stride, size_t cols, float* c, size_t c_stride, bool accumulate,
                UpcomingLines* upcoming);
void AmxProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                size_t b_stride, size_t cols, int32_t* c, size_t c_stride, bool accumulate,
                UpcomingLines* upcoming);

// Most query rows that AmxScoreKeys takes. More win by packing K once.
inline constexpr size_t kMaxAmxStreamedRows = 32;

// sums[q][t][i] = what AmxProduct gives for query 16 q + i and keys[t], t < RoundUpAmx(count), for
// up to kMaxAmxStreamedRows queries, without packing: rows of K are loaded as they lie in the pool.
// keys: [count][dim], dim a multiple of 2 (bf16) or 4 (int8). columns: [RoundUpAmx(rows) /
// 16][depth] [16], depth = RoundUpAmx(words of dim), as AmxQueryColumns makes them. sums:
// [RoundUpAmx(rows) / 16] [sums_stride], for AmxScoreRows. int8: keys are signed here, so nothing
// is too large by the offset of KeyProduct. `ahead`: as in bf16_attention_kernels.h.
void AmxScoreKeys(const bf16* keys, size_t count, size_t dim, const void* ahead,
                  const uint32_t* columns, size_t rows, float* sums, size_t sums_stride);
void AmxScoreKeys(const int8_t* keys, size_t count, size_t dim, const void* ahead,
                  const uint32_t* columns, size_t rows, int32_t* sums, size_t sums_stride);

// scores[r][t] = sums[r / 16][t][r % 16] for r < rows and t < cols, a multiple of 16. Elements are
// 32-bit whatever they count. Apart from the products, which would wait for it.
void AmxScoreRows(const void* sums, size_t sums_stride, size_t rows, size_t cols, void* scores,
                  size_t scores_stride);

// columns[q][w][i] = queries[16 q + i][w] for w < depth, a multiple of 16. Rows from `rows` to
// RoundUpAmx(rows) become 0.
void AmxQueryColumns(const uint32_t* queries, size_t stride, size_t rows, size_t depth,
                     uint32_t* columns);

// out[t / 2 * width + j] = (values[t][j], values[t + 1][j]) for j < width = RoundUpAmx(dim), with
// values[t] = 0 for t in [count, padded). values: [count] rows of
// dim elements, `stride` apart; padded is a multiple of 2.
void AmxPackValues(const bf16* values, size_t count, size_t padded, size_t stride, size_t dim,
                   const void* ahead, uint32_t* out);
// The same in words of four positions, out[t / 4 * width + j]; padded is a multiple of 4.
void AmxPackValues(const int8_t* values, size_t count, size_t padded, size_t stride, size_t dim,
                   const void* ahead, uint32_t* out);

// c[r][j] = (or += with `accumulate`) 256 * (high[r] . b[:, j]) + low[r] . b[:, j]: int16 weights,
// split into signed high and unsigned low bytes, times packed int8 values. high, low:
// [rows][a_stride] words; rows, depth and cols as in AmxProduct.
void AmxWeightProduct(const uint32_t* high, const uint32_t* low, size_t a_stride, size_t rows,
                      size_t depth, const uint32_t* b, size_t b_stride, size_t cols, int32_t* c,
                      size_t c_stride, bool accumulate, UpcomingLines* upcoming);

// weights[i] = 256 * high[i] + low[i] for i < count, a multiple of 64.
void SplitWeights(const int16_t* weights, size_t count, int8_t* high, uint8_t* low);

}  // namespace kvasir
