// Products with packed weights on AMX, 64 columns at a time and as many rows as their sums stay
// beside the weights in the first cache level. With few rows, as in a decode step, reading the
// weights is all that takes time; with many the same block is read again from the second level.
//
// A block of 64 columns lies in memory as one stream of steps of 4 KiB, each one B tile deep: 16
// words along the summed dimension by 64 columns, a word being two bf16 or four int8 (oneDNN's
// BA16a64b2a and BA16a64b4a). With few rows the products of a step take less time than its bytes
// take from memory, if these are asked for early: hardware alone fetches such streams at 12 GB/s
// with two cores of a Xeon that read 25, for its prefetchers stop at each page. So each step asks
// for one that lies kAheadBytes further on.
//
// Sums take words in ascending order, one row by itself: a row's result does not depend on the
// other rows. Only callable when HasAmxProducts(), between ConfigureAmxTiles and ReleaseAmxTiles.
// Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

namespace kvasir {

inline constexpr size_t kAmxColumns = 64;        // of a block
inline constexpr size_t kAmxStepBytes = 4096;    // of a block's weights
inline constexpr size_t kMaxAmxColumnRows = 64;  // of one call

// Values along the summed dimension in a step.
template <typename T>
inline constexpr size_t kAmxStepDepth = 64 / sizeof(T);

// sums[r][j] = sum over k < depth of x[r][k] * w[k][j], j < 64, for r < rows <= kMaxAmxColumnRows.
// depth is a multiple of kAmxStepDepth. x: [RoundUpAmx(rows)][depth], of which rows past `rows` may
// hold anything; sums: [RoundUpAmx(rows)][64]. weights: depth / kAmxStepDepth steps; those up to
// `weights_end`, which the caller multiplies with next, may be asked for.
void AmxColumnProduct(const bf16* x, size_t rows, size_t depth, const void* weights,
                      const void* weights_end, float* sums);
// Unsigned rows with signed weights.
void AmxColumnProduct(const uint8_t* x, size_t rows, size_t depth, const void* weights,
                      const void* weights_end, int32_t* sums);

}  // namespace kvasir
