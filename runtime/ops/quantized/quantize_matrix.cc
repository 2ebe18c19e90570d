#include "runtime/ops/quantized/quantize_matrix.h"

#include <algorithm>

#include "base/check.h"
#include "base/mapped_pages.h"
#include "base/parallel.h"
#include "runtime/formats/dequantize.h"
#include "runtime/formats/quantize.h"

namespace kvasir {

AlignedBuffer<uint8_t> QuantizeMatrix(const StoredMatrix& matrix, WeightFormat format) {
  KVASIR_CHECK(!Info(matrix.type).is_block() && CanQuantizeTo(format));
  const auto* const stored = static_cast<const uint8_t*>(matrix.data);
  const int64_t stored_bytes = RowBytes(matrix.type, matrix.cols);
  PrefetchMapped(stored, static_cast<size_t>(matrix.rows * stored_bytes));
  const int64_t row_bytes = RowBytes(format, matrix.cols);
  AlignedBuffer<uint8_t> blocks(static_cast<size_t>(matrix.rows * row_bytes));
  AlignedBuffer<float> rows(static_cast<size_t>(matrix.cols * ComputeThreads()));
  constexpr int64_t kRowsPerTask = 16;  // each takes some ten microseconds or more
  // What is read before the file's pages are given back.
  constexpr int64_t kReleaseBytes = int64_t{16} << 20;
  const int64_t together = std::max<int64_t>(1, kReleaseBytes / stored_bytes / kRowsPerTask);
  const int64_t tasks = (matrix.rows + kRowsPerTask - 1) / kRowsPerTask;
  for (int64_t first = 0; first < tasks; first += together) {
    const int64_t count = std::min(together, tasks - first);
    ParallelFor(static_cast<size_t>(count), [&](size_t task, int thread) {
      float* row = rows.data() + int64_t{thread} * matrix.cols;
      const int64_t begin = (first + static_cast<int64_t>(task)) * kRowsPerTask;
      for (int64_t r = begin; r < std::min(matrix.rows, begin + kRowsPerTask); ++r) {
        Dequantize(matrix.type, stored + r * stored_bytes, matrix.cols, row);
        QuantizeRow(format, row, matrix.cols, blocks.data() + r * row_bytes);
      }
    });
    const int64_t begin = first * kRowsPerTask;
    const int64_t end = std::min(matrix.rows, (first + count) * kRowsPerTask);
    ReleaseMapped(stored + begin * stored_bytes, static_cast<size_t>((end - begin) * stored_bytes));
  }
  return blocks;
}

}  // namespace kvasir
