// Rows of a product with quantised weights: what goes in as floats, what comes out. For
// runtime/ops/quantized only. Thread safe.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/bf16.h"
#include "runtime/kernels/blocks/block_panel.h"
#include "runtime/kernels/convert.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

// One row of x as floats.
inline void RowAsFloats(const MatmulInput& x, int64_t row, float* out) {
  const int64_t cols = x.cols();
  switch (x.compute_type()) {
    case ComputeType::kF32:
      std::memcpy(out, static_cast<const float*>(x.data()) + row * cols, cols * sizeof(float));
      return;
    case ComputeType::kBf16:
      ToFloats(static_cast<const bf16*>(x.data()) + row * cols, cols, out);
      return;
    case ComputeType::kInt8: {
      const uint8_t* from = static_cast<const uint8_t*>(x.data()) + row * cols;
      const float scale = x.row_scales()[row];
      for (int64_t i = 0; i < cols; ++i) out[i] = static_cast<float>(from[i] - 128) * scale;
      return;
    }
  }
}

// y = from * factor + bias, or += with `accumulate`; bias may be null. Inlined, so that a constant
// count is one.
inline void FinishPanel(const float* from, float factor, const float* bias, int64_t count,
                        bool accumulate, float* y) {
  float values[kPanelRows];
  for (int64_t i = 0; i < count; ++i) values[i] = from[i] * factor;
  if (bias != nullptr) {
    for (int64_t i = 0; i < count; ++i) values[i] += bias[i];
  }
  if (accumulate) {
    for (int64_t i = 0; i < count; ++i) values[i] = y[i] + values[i];
  }
  for (int64_t i = 0; i < count; ++i) y[i] = values[i];
}

}  // namespace kvasir
