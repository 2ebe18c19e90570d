// The three forms in which row kernels write, compared with one expectation.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/bf16.h"
#include "gtest/gtest.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {

// f32: a few roundings of the largest element; the sum of n squares adds sqrt(n) of them at worst
// in practice.
inline double F32Tolerance(const reference::Matrix& expected, int64_t n) {
  double max = 0;
  for (const float x : expected.data) max = std::max(max, std::abs(static_cast<double>(x)));
  return max * (4 + std::sqrt(n)) * 0x1p-24;
}

inline std::vector<float> FromBf16(const std::vector<bf16>& in) {
  std::vector<float> out;
  for (const bf16 x : in) out.push_back(ToFloat(x));
  return out;
}

// bf16 keeps 8 bits; u8 steps are scale wide; `extra`: what else an f32 may be off.
inline void ExpectForms(const reference::Matrix& expected, const std::vector<float>& f32,
                        const std::vector<bf16>& narrow, const std::vector<uint8_t>& u8,
                        float scale, double extra = 0) {
  const double tolerance = F32Tolerance(expected, expected.cols) + extra;
  const std::vector<float> wide = FromBf16(narrow);
  for (int64_t i = 0; i < expected.cols; ++i) {
    const double want = expected.data[i];
    ASSERT_NEAR(f32[i], want, tolerance) << i << " of " << expected.cols;
    ASSERT_NEAR(wide[i], want, tolerance + std::abs(want) * 0x1p-8) << i;
    ASSERT_NEAR((u8[i] - 128) * scale, want, tolerance + scale * 0.501) << i;
  }
}

}  // namespace kvasir
