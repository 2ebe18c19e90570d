// Between the operations' tensors and the naive twins' matrices.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "runtime/ops/matmul.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {

// Borrows m.
inline MatrixView View(reference::Matrix& m) { return {m.data.data(), m.rows, m.cols, m.cols}; }

// The input of a product as floats again.
inline reference::Matrix Floats(const MatmulInput& input) {
  reference::Matrix out(input.rows(), input.cols());
  for (int64_t i = 0; i < out.rows * out.cols; ++i) {
    switch (input.compute_type()) {
      case ComputeType::kF32:
        out.data[i] = static_cast<const float*>(input.data())[i];
        break;
      case ComputeType::kBf16:
        out.data[i] = ToFloat(static_cast<const bf16*>(input.data())[i]);
        break;
      case ComputeType::kInt8:
        out.data[i] =
            (static_cast<const uint8_t*>(input.data())[i] - 128) * input.row_scales()[i / out.cols];
        break;
    }
  }
  return out;
}

}  // namespace kvasir
