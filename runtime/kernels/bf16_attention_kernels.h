// Packing and products of tiled attention on the bf16 dot-product instructions of AVX-512 (VDPBF16PS), which
// Highway 1.0 does not reach. Everything multiplies pairs along the summed dimension: B[k/2][column] holds
// (b[k][column], b[k+1][column]) in one 32-bit word, the instruction's own layout.
//
// Only callable when HasBf16Products(). Like the f32 kernels, a row's result does not depend on the other
// rows of the tile. Raw pointers, strides count elements of the pointed-to type. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/base/bf16.h"

namespace kvasir {

// Whether this CPU has the instructions, and Highway's targets (which tests restrict) include AVX-512.
bool HasBf16Products();

// keys: [count][dim], dim even. out[(d / 2) * out_stride + t] = (keys[t][d], keys[t][d + 1]); columns
// [count, RoundUpColumns(count)) become 0. int8 values convert exactly; their scales are applied to the scores.
void PackKeyPairs(const bf16* keys, size_t count, size_t dim, uint32_t* out, size_t out_stride);
void PackKeyPairs(const int8_t* keys, size_t count, size_t dim, uint32_t* out, size_t out_stride);

// values: [count][dim]. out[(t / 2) * out_stride + j] = (values[t][j], values[t + 1][j]); columns [dim,
// RoundUpColumns(dim)) and the partner of a last odd row become 0.
void PackValuePairs(const bf16* values, size_t count, size_t dim, uint32_t* out, size_t out_stride);
void PackValuePairs(const int8_t* values, size_t count, size_t dim, uint32_t* out, size_t out_stride);

// c[r][j] = sum over pairs k of dot(a[r][k], b[k][j]) for j < cols; cols is a multiple of kColumnGroup.
// a: [rows][depth_pairs] as 32-bit words, a_stride in words.
void TileProductPairs(const uint32_t* a, size_t a_stride, size_t rows, size_t depth_pairs, const uint32_t* b,
                      size_t b_stride, size_t cols, float* c, size_t c_stride);

}  // namespace kvasir
