// Conversions of one row between float and the stored types. Raw pointers; any alignment of the
// 16-bit and 8-bit sides that the CPU can load; input and output must not overlap. Dispatched at
// run time (Highway). Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

namespace kvasir {

void ToFloats(const bf16* in, size_t n, float* out);
void ToFloats(const f16* in, size_t n, float* out);
// out = in * scale.
void ToFloats(const int8_t* in, size_t n, float scale, float* out);
void ToFloats(const int32_t* in, size_t n, float scale, float* out);

// To nearest, ties to even; the same bits as ToBf16 and ToF16 of bf16.h.
void FromFloats(const float* in, size_t n, bf16* out);
void FromFloats(const float* in, size_t n, f16* out);

// max |in[i]|; 0 when n == 0.
float MaxAbs(const float* in, size_t n);

// Symmetric quantisation: out = round(in / scale) within [-limit, limit], where scale = max|in| /
// limit is returned (0 for a row of zeros, whose elements become 0). limit <= 127.
float QuantizeS8(const float* in, size_t n, int limit, int8_t* out);

// The same with 127 steps each way, stored as u8 with zero point 128.
float QuantizeU8(const float* in, size_t n, uint8_t* out);

}  // namespace kvasir
