#include "runtime/conversion/encode_rows.h"

#include <algorithm>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/formats/quantize.h"

namespace kvasir {
namespace {

// A vector, whose rows have one value, is few tasks too.
constexpr int64_t kTaskValues = int64_t{1} << 14;

template <typename T, typename Convert>
void Narrow(const float* values, int64_t count, uint8_t* out, const Convert& convert) {
  for (int64_t i = 0; i < count; ++i) {
    const T value = convert(values[i]);
    std::memcpy(out + i * sizeof(T), &value, sizeof(T));
  }
}

void Encode(WeightFormat format, const float* values, int64_t rows, int64_t cols, uint8_t* out) {
  const int64_t count = rows * cols;
  switch (format) {
    case WeightFormat::kF32:
      std::memcpy(out, values, count * sizeof(float));
      return;
    case WeightFormat::kBf16:
      return Narrow<bf16>(values, count, out, [](float v) { return ToBf16(v); });
    case WeightFormat::kF16:
      return Narrow<f16>(values, count, out, [](float v) { return ToF16(v); });
    default:
      break;
  }
  for (int64_t row = 0; row < rows; ++row) {
    QuantizeRow(format, values + row * cols, cols, out + row * RowBytes(format, cols));
  }
}

}  // namespace

bool CanEncode(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kBf16:
    case WeightFormat::kF16:
    case WeightFormat::kQ8_0:
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_K:
      return true;
    default:
      return false;
  }
}

std::vector<uint8_t> EncodeRows(WeightFormat format, absl::Span<const float> values, int64_t cols) {
  KVASIR_CHECK(CanEncode(format));
  const auto rows = static_cast<int64_t>(values.size()) / cols;
  const int64_t row_bytes = RowBytes(format, cols);
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * row_bytes));
  const int64_t task_rows = std::max<int64_t>(1, kTaskValues / cols);
  ParallelFor(static_cast<size_t>((rows + task_rows - 1) / task_rows), [&](size_t task, int) {
    const int64_t begin = static_cast<int64_t>(task) * task_rows;
    Encode(format, values.data() + begin * cols, std::min(task_rows, rows - begin), cols,
           bytes.data() + begin * row_bytes);
  });
  return bytes;
}

}  // namespace kvasir
