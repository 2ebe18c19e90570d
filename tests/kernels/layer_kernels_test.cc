#include "runtime/kernels/layer_kernels.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

// Convolution, delta rule and outliers have their twins in tests/ops/.

const std::vector<int64_t> kLengths = {1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 100, 257, 1024};

TEST(ClampedGateRow, AgreesWithNaiveAlsoFarOut) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      Matrix gate = RandomMatrix(1, n, 1, 4.0f), up = RandomMatrix(1, n, 2, 6.0f);
      const std::vector<float> far = {7.0f, -7.0f, 1e4f, -1e4f, 40.0f, -40.0f, 0.0f};
      for (size_t i = 0; i < far.size() && static_cast<int64_t>(i) < n / 2; ++i) {
        gate.data[i] = far[i];
        up.data[i] = far[far.size() - 1 - i];
      }
      std::vector<float> out(n);
      ClampedGateRow(gate.data.data(), up.data.data(), 7.0f, 1.702f, n, out.data());
      for (int64_t i = 0; i < n; ++i) {
        const double g = std::min(gate.data[i], 7.0f);
        const double u = std::clamp(up.data[i], -7.0f, 7.0f);
        const double want = (u + 1) * g / (1 + std::exp(-1.702 * g));
        ASSERT_NEAR(out[i], want, std::abs(want) * 5e-6 + 1e-30) << i << " of " << n;
      }
    }
  });
}

TEST(GatedNormRow, AgreesWithNaiveInPlace) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      Matrix x = RandomMatrix(1, n, 1, 3.0f);
      const Matrix weight = RandomMatrix(1, n, 2), gate = RandomMatrix(1, n, 3, 3.0f);
      double squares = 0;
      for (const float v : x.data) squares += double{v} * v;
      Matrix expected = x;
      for (int64_t i = 0; i < n; ++i) {
        const double z = gate.data[i];
        expected.data[i] = static_cast<float>(x.data[i] / std::sqrt(squares / n + 1e-5) *
                                              weight.data[i] * z / (1 + std::exp(-z)));
      }
      GatedNormRow(x.data.data(), weight.data.data(), gate.data.data(), 1e-5f, n, x.data.data());
      ASSERT_LE(reference::MaxDifference(x, expected), 2e-5) << n;
    }
  });
}

TEST(UnitRow, GivesTheScaleAsLength) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      Matrix x = RandomMatrix(1, n, 1, 3.0f);
      UnitRow(x.data.data(), 0.25f, 0.0f, n);
      ASSERT_NEAR(std::sqrt(DotRow(x.data.data(), x.data.data(), n)), 0.25, 1e-6) << n;
      std::fill(x.data.begin(), x.data.end(), 0.0f);
      UnitRow(x.data.data(), 0.25f, 1e-6f, n);
      ASSERT_EQ(x.data[0], 0.0f) << "a row of zeros stays one";
    }
  });
}

}  // namespace
}  // namespace kvasir
