// Plain matrices brought into block formats while a model is loaded. Pure function; runs on the
// compute threads.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// `matrix`: of plain numbers, any alignment; `format`: CanQuantizeTo (runtime/formats/quantize.h).
// The result: [rows][RowBytes(format, cols)].
AlignedBuffer<uint8_t> QuantizeMatrix(const StoredMatrix& matrix, WeightFormat format);

}  // namespace kvasir
