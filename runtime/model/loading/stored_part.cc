#include "runtime/model/loading/stored_part.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/parallel.h"
#include "runtime/model/embedding.h"

namespace kvasir {
namespace {

template <typename T>
void CopyRow(const uint8_t* from, int64_t col_stride, int64_t cols, uint8_t* to) {
  if (col_stride == 1) {
    std::memcpy(to, from, cols * sizeof(T));
    return;
  }
  for (int64_t c = 0; c < cols; ++c) {
    std::memcpy(to + c * sizeof(T), from + c * col_stride * sizeof(T), sizeof(T));
  }
}

}  // namespace

AlignedBuffer<uint8_t> GatherPart(const StoredPart& part, const void* stored, WeightFormat* type) {
  const size_t element = ElementBytes(*type);
  const bool changed = part.add != 0 || part.exponential;
  const WeightFormat result = changed ? WeightFormat::kF32 : *type;
  AlignedBuffer<uint8_t> values(static_cast<size_t>(part.rows * part.cols) * ElementBytes(result));
  const uint8_t* bytes = static_cast<const uint8_t*>(stored);
  // Rows that make up a few hundred KB: enough to pay for handing out a task.
  const int64_t rows_per_task = std::max<int64_t>(1, (int64_t{1} << 17) / part.cols);
  ParallelFor((part.rows + rows_per_task - 1) / rows_per_task, [&](size_t task, int) {
    const int64_t begin = static_cast<int64_t>(task) * rows_per_task;
    const int64_t end = std::min(part.rows, begin + rows_per_task);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = part.row_order.empty() ? r : part.row_order[r];
      const uint8_t* from = bytes + (part.offset + row * part.row_stride) * element;
      uint8_t* to = values.data() + r * part.cols * ElementBytes(result);
      if (!changed) {
        if (element == 4) {
          CopyRow<uint32_t>(from, part.col_stride, part.cols, to);
        } else {
          CopyRow<uint16_t>(from, part.col_stride, part.cols, to);
        }
        continue;
      }
      for (int64_t c = 0; c < part.cols; ++c) {
        float value;
        WidenToFloat(from + c * part.col_stride * element, *type, 1, &value);
        value = part.exponential ? std::exp(value) : value + part.add;
        std::memcpy(to + c * sizeof(float), &value, sizeof(float));
      }
    }
  });
  *type = result;
  return values;
}

}  // namespace kvasir
