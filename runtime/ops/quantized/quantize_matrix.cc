#include "runtime/ops/quantized/quantize_matrix.h"

#include <algorithm>

#include "base/check.h"
#include "base/parallel.h"
#include "runtime/formats/dequantize.h"
#include "runtime/formats/quantize.h"

namespace kvasir {

AlignedBuffer<uint8_t> QuantizeMatrix(const StoredMatrix& matrix, WeightFormat format) {
  KVASIR_CHECK(!Info(matrix.type).is_block() && CanQuantizeTo(format));
  const int64_t stored_bytes = RowBytes(matrix.type, matrix.cols);
  const int64_t row_bytes = RowBytes(format, matrix.cols);
  AlignedBuffer<uint8_t> blocks(static_cast<size_t>(matrix.rows * row_bytes));
  AlignedBuffer<float> rows(static_cast<size_t>(matrix.cols * ComputeThreads()));
  constexpr int64_t kRowsPerTask = 16;  // each takes some ten microseconds or more
  const int64_t tasks = (matrix.rows + kRowsPerTask - 1) / kRowsPerTask;
  ParallelFor(static_cast<size_t>(tasks), [&](size_t task, int thread) {
    float* row = rows.data() + int64_t{thread} * matrix.cols;
    const int64_t begin = static_cast<int64_t>(task) * kRowsPerTask;
    for (int64_t r = begin; r < std::min(matrix.rows, begin + kRowsPerTask); ++r) {
      Dequantize(matrix.type, static_cast<const uint8_t*>(matrix.data) + r * stored_bytes,
                 matrix.cols, row);
      QuantizeRow(format, row, matrix.cols, blocks.data() + r * row_bytes);
    }
  });
  return blocks;
}

}  // namespace kvasir
