#include "runtime/ops/tensor.h"

#include "runtime/formats/dequantize.h"

namespace kvasir {

void StoredRow(const StoredMatrix& matrix, int64_t row, float* out) {
  const auto* const from = static_cast<const uint8_t*>(matrix.data);
  Dequantize(matrix.type, from + row * RowBytes(matrix.type, matrix.cols), matrix.cols, out);
  if (matrix.factor == 1) return;
  for (int64_t c = 0; c < matrix.cols; ++c) out[c] *= matrix.factor;
}

}  // namespace kvasir
