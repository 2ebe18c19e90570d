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
