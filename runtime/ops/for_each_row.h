// Row loops of operations that do little per element: parallel where there is enough to do.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/parallel.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

// Below this many elements an operation runs in the caller: 32k elements take a few microseconds on
// one core, about what waking a team costs.
inline constexpr int64_t kSerialElements = 32 * 1024;

// body(row) for every row, in parallel when there is enough work. Rows are handed out in groups, so
// that narrow rows do not pay one hand-out each.
template <typename Body>
void ForEachRow(int64_t rows, int64_t cols, const Body& body) {
  if (rows <= 1 || rows * cols < kSerialElements) {
    for (int64_t r = 0; r < rows; ++r) body(r);
    return;
  }
  const int64_t group = std::max<int64_t>(1, kSerialElements / 4 / std::max<int64_t>(1, cols));
  ParallelFor(static_cast<size_t>((rows + group - 1) / group), [&](size_t index, int) {
    const int64_t begin = static_cast<int64_t>(index) * group;
    const int64_t end = std::min(rows, begin + group);
    for (int64_t r = begin; r < end; ++r) body(r);
  });
}

// Calls body(row, out) for every row of `out`, `out` being the row in the operand's own form; what
// body returns for u8 is the row's scale. out has been resized.
template <typename Body>
void ForEachOperandRow(MatmulInput* out, int64_t cols, const Body& body) {
  ForEachRow(out->rows(), cols, [&](int64_t r) {
    const int64_t at = r * out->cols();
    switch (out->compute_type()) {
      case ComputeType::kF32:
        body(r, static_cast<float*>(out->mutable_data()) + at);
        break;
      case ComputeType::kBf16:
        body(r, static_cast<bf16*>(out->mutable_data()) + at);
        break;
      case ComputeType::kInt8:
        out->mutable_row_scales()[r] = body(r, static_cast<uint8_t*>(out->mutable_data()) + at);
        break;
    }
  });
}

}  // namespace kvasir
