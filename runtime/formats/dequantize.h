// Stored weights of any format as f32: the oracle that kernels are held against, and the way of
// everything that is not a product (norms, biases, embeddings, weights made from weights).
//
// Bit for bit what the PyPI package `gguf` (0.19) gives. Pure function, thread safe.
#pragma once

#include <cstdint>

#include "runtime/formats/weight_format.h"

namespace kvasir {

// `count` elements from the beginning of `stored`: one row, whose last block may be short, or
// several where a row is a multiple of the format's block. `stored` may be unaligned.
void Dequantize(WeightFormat format, const void* stored, int64_t count, float* out);

}  // namespace kvasir
