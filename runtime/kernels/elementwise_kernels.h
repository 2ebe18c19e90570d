// Small row kernels of the operations between the products. Arithmetic in f32. Raw pointers, no
// alignment needed; outputs must not overlap inputs unless said. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvasir {

// Rotates the pairs (head[i], head[i + half]) by the angle whose cosine and sine are cos[i],
// sin[i], in place.
void RopeHead(float* head, const float* cos, const float* sin, size_t half);

// One row of a u8 x s8 product brought back to f32:
//   y[j] = (sums[j] - 128 * column_sums[j]) * (row_scale * column_scales[j]) + bias[j]
// or y[j] += with add. bias may be null; all [n].
void DequantizeRow(const int32_t* sums, const int32_t* column_sums, const float* column_scales,
                   const float* bias, float row_scale, bool add, size_t n, float* y);

// y += x; both [n].
void AddRow(const float* x, size_t n, float* y);

// y += scale * x; both [n].
void AddScaledRow(const float* x, float scale, size_t n, float* y);

}  // namespace kvasir
