#include "runtime/kernels/elementwise_kernels.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

const std::vector<int64_t> kLengths = {1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 100, 257, 1024};

// f32: a few roundings of the largest element; the sum of n squares adds sqrt(n) of them at worst
// in practice.
double F32Tolerance(const Matrix& expected, int64_t n) {
  double max = 0;
  for (const float x : expected.data) max = std::max(max, std::abs(static_cast<double>(x)));
  return max * (4 + std::sqrt(n)) * 0x1p-24;
}

std::vector<float> FromBf16(const std::vector<bf16>& in) {
  std::vector<float> out;
  for (const bf16 x : in) out.push_back(ToFloat(x));
  return out;
}

// bf16 keeps 8 bits; u8 steps are scale wide.
void ExpectForms(const Matrix& expected, const std::vector<float>& f32,
                 const std::vector<bf16>& narrow, const std::vector<uint8_t>& u8, float scale) {
  const double tolerance = F32Tolerance(expected, expected.cols);
  const std::vector<float> wide = FromBf16(narrow);
  for (int64_t i = 0; i < expected.cols; ++i) {
    const double want = expected.data[i];
    ASSERT_NEAR(f32[i], want, tolerance) << i << " of " << expected.cols;
    ASSERT_NEAR(wide[i], want, tolerance + std::abs(want) * 0x1p-8) << i;
    ASSERT_NEAR((u8[i] - 128) * scale, want, tolerance + scale * 0.501) << i;
  }
}

TEST(RmsNormRow, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      const Matrix x = RandomMatrix(1, n, 1, 3.0f), weight = RandomMatrix(1, n, 2);
      const Matrix expected = reference::RmsNorm(x, {}, weight.data, 1e-5);
      std::vector<float> f32(n);
      std::vector<bf16> narrow(n);
      std::vector<uint8_t> u8(n);
      RmsNormRow(x.data.data(), weight.data.data(), n, 1e-5f, f32.data());
      RmsNormRow(x.data.data(), weight.data.data(), n, 1e-5f, narrow.data());
      const float scale = RmsNormRow(x.data.data(), weight.data.data(), n, 1e-5f, u8.data());
      ExpectForms(expected, f32, narrow, u8, scale);
    }
  });
}

TEST(SiluMulRow, AgreesWithNaiveAlsoFarOut) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      Matrix gate_up = RandomMatrix(1, 2 * n, 3, 4.0f);
      const std::vector<float> far = {0.0f, -0.0f, 30.0f, -30.0f, 100.0f, -100.0f, 1e4f, -1e4f};
      for (size_t i = 0; i < far.size() && static_cast<int64_t>(i) < n / 2; ++i)
        gate_up.data[i] = far[i];
      const Matrix expected = reference::SiluMul(gate_up);
      float* gate = gate_up.data.data();
      std::vector<float> f32(n);
      std::vector<bf16> narrow(n);
      std::vector<uint8_t> u8(n);
      SiluMulRow(gate, gate + n, n, f32.data());
      SiluMulRow(gate, gate + n, n, narrow.data());
      const float scale = SiluMulRow(gate, gate + n, n, u8.data());
      for (int64_t i = 0; i < n; ++i) {  // relative: exp's error grows with its argument
        const double want = expected.data[i];
        ASSERT_NEAR(f32[i], want, std::abs(want) * 3e-6 + 1e-30) << i;
      }
      ExpectForms(expected, f32, narrow, u8, scale);
    }
  });
}

TEST(RopeHead, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int half : {1, 2, 3, 4, 8, 20, 32, 64}) {
      Matrix x = RandomMatrix(1, 2 * half, 5);
      std::vector<float> cos(half), sin(half);
      const int position = 1234;
      for (int i = 0; i < half; ++i) {
        const double angle = position * std::pow(10000.0, -1.0 * i / half);
        cos[i] = static_cast<float>(std::cos(angle));
        sin[i] = static_cast<float>(std::sin(angle));
      }
      Matrix expected = x;
      const int32_t positions[] = {position};
      reference::Rope(&expected, 1, 2 * half, 2 * half, positions, 10000.0);
      RopeHead(x.data.data(), cos.data(), sin.data(), half);
      EXPECT_LT(reference::MaxDifference(x, expected), 2e-6);
    }
  });
}

TEST(DequantizeRow, AppliesZeroPointScalesAndBias) {
  ForEachDispatchTarget([] {
    for (const int n : {1, 7, 16, 33}) {
      std::vector<int32_t> sums(n), column_sums(n);
      std::vector<float> scales(n), bias(n);
      for (int i = 0; i < n; ++i) {
        sums[i] = 100000 - 7777 * i;
        column_sums[i] = 13 * i - 50;
        scales[i] = 0.001f * (i + 1);
        bias[i] = 0.25f * i;
      }
      for (const bool add : {false, true}) {
        for (const bool with_bias : {false, true}) {
          std::vector<float> y(n, 2.0f);
          DequantizeRow(sums.data(), column_sums.data(), scales.data(),
                        with_bias ? bias.data() : nullptr, 0.5f, add, n, y.data());
          for (int i = 0; i < n; ++i) {
            const double product = (sums[i] - 128.0 * column_sums[i]) * 0.5 * scales[i];
            const double want = product + (with_bias ? bias[i] : 0) + (add ? 2.0 : 0);
            ASSERT_NEAR(y[i], want, std::abs(want) * 1e-6 + std::abs(product) * 1e-6);
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace kvasir
