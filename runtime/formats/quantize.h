// Rows of numbers brought into block formats.
//
// Scales of four bits are not the largest magnitude's but those of the least squared error, each
// value's error weighted with the square of the value (Q4_K, which has mins too: with its
// magnitude): a few scales around the largest magnitude's are tried, and for the codes that each
// gives, the best scale follows in closed form. With zero points every value's error counts alike,
// and zero points beside the one where zero falls are tried too. Q8_0 takes the largest
// magnitude's.
//
// Pure functions, thread safe.
#pragma once

#include <cstdint>

#include "runtime/formats/weight_format.h"

namespace kvasir {

// kInt4Group32, 64, 128, kInt4Zero32, 64, 128, kQ4_0, kQ4_K, kQ8_0.
bool CanQuantizeTo(WeightFormat format);

// `x`: [cols], a multiple of the format's block; `out`: RowBytes(format, cols) bytes. What is not
// finite counts as 0.
void QuantizeRow(WeightFormat format, const float* x, int64_t cols, uint8_t* out);

}  // namespace kvasir
