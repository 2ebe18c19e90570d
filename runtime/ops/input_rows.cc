#include "runtime/ops/input_rows.h"

#include <cstddef>
#include <cstring>

#include "base/check.h"
#include "base/parallel.h"

namespace kvasir {
namespace {

// Below this many elements a copy runs in the caller: waking a team costs a few microseconds.
constexpr int64_t kSerialElements = 32 * 1024;

template <typename Body>
void ForEachRow(int64_t rows, int64_t cols, const Body& body) {
  if (rows * cols < kSerialElements) {
    for (int64_t r = 0; r < rows; ++r) body(r);
  } else {
    ParallelFor(static_cast<size_t>(rows), [&](size_t r, int) { body(static_cast<int64_t>(r)); });
  }
}

size_t ElementBytes(ComputeType type) {
  switch (type) {
    case ComputeType::kF32:
      return 4;
    case ComputeType::kBf16:
      return 2;
    case ComputeType::kInt8:
      return 1;
  }
  return 0;
}

// out's row r becomes columns [first, first + out->cols()) of x's row from(r).
template <typename From>
void Copy(const MatmulInput& x, int64_t first, const From& from, MatmulInput* out) {
  KVASIR_CHECK(x.compute_type() == out->compute_type());
  const size_t element = ElementBytes(x.compute_type());
  const size_t bytes = out->cols() * element;
  const auto* source = static_cast<const uint8_t*>(x.data()) + first * element;
  auto* target = static_cast<uint8_t*>(out->mutable_data());
  const bool scaled = x.compute_type() == ComputeType::kInt8;
  ForEachRow(out->rows(), out->cols(), [&](int64_t r) {
    const int64_t row = from(r);
    std::memcpy(target + r * bytes, source + row * x.cols() * element, bytes);
    if (scaled) out->mutable_row_scales()[r] = x.row_scales()[row];
  });
}

}  // namespace

void SetRows(MatrixView x, MatmulInput* out) {
  out->Resize(x.rows, x.cols);
  ForEachRow(x.rows, x.cols, [&](int64_t r) { out->SetRow(r, x.row(r)); });
}

void GatherRows(const MatmulInput& x, absl::Span<const int32_t> rows, MatmulInput* out) {
  out->Resize(static_cast<int64_t>(rows.size()), x.cols());
  Copy(
      x, 0, [&](int64_t r) { return int64_t{rows[r]}; }, out);
}

void SliceColumns(const MatmulInput& x, int64_t first, int64_t count, MatmulInput* out) {
  KVASIR_CHECK(first >= 0 && first + count <= x.cols());
  out->Resize(x.rows(), count);
  Copy(
      x, first, [](int64_t r) { return r; }, out);
}

}  // namespace kvasir
