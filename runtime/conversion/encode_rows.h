// Rows of f32 as a file stores them, plain numbers or blocks. Uses the team of compute threads.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "runtime/formats/weight_format.h"

namespace kvasir {

// kF32, kBf16, kF16, and the block formats of other programs that CanQuantizeTo: what a result's
// weights may be.
bool CanEncode(WeightFormat format);

// values: [rows, cols], cols a multiple of the format's block. RowBytes(format, cols) bytes per
// row.
std::vector<uint8_t> EncodeRows(WeightFormat format, absl::Span<const float> values, int64_t cols);

}  // namespace kvasir
