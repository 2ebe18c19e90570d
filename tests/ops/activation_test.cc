#include "runtime/ops/layers/activation.h"

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

TEST(Activation, KeepLargestAgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int64_t cols : {1, 5, 64, 1000}) {
      Matrix x = RandomMatrix(3, cols + 4, 1, 2.0f);
      for (float& v : x.data) v += 7;
      const Matrix before = x;
      KeepLargest({x.data.data(), 3, cols, cols + 4}, 1.5f);
      for (int64_t r = 0; r < 3; ++r) {
        double mean = 0, variance = 0;
        for (int64_t c = 0; c < cols; ++c) mean += before.at(r, c) / double(cols);
        for (int64_t c = 0; c < cols; ++c) {
          variance += (before.at(r, c) - mean) * (before.at(r, c) - mean) / cols;
        }
        for (int64_t c = 0; c < cols; ++c) {
          const double expected =
              std::max(0.0, before.at(r, c) - (mean + 1.5 * std::sqrt(variance)));
          ASSERT_NEAR(x.at(r, c), expected, 2e-5) << cols;
        }
        for (int64_t c = cols; c < cols + 4; ++c) ASSERT_EQ(x.at(r, c), before.at(r, c));
      }
    }
  });
}

// Values of the tables.
TEST(Activation, NormalQuantile) {
  EXPECT_NEAR(NormalQuantile(0.5), 0.0, 1e-12);
  EXPECT_NEAR(NormalQuantile(0.95), 1.6448536269514722, 1e-12);
  EXPECT_NEAR(NormalQuantile(0.025), -1.9599639845400545, 1e-12);
  EXPECT_NEAR(NormalQuantile(0.999), 3.090232306167813, 1e-11);
}

}  // namespace
}  // namespace kvasir
