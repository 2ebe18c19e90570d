#include "runtime/kernels/score_kernels.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

const std::vector<int64_t> kLengths = {1, 2, 3, 7, 16, 31, 100, 256};

// Random values, some of them far out and some near zero.
std::vector<float> Values(int64_t n, uint32_t seed) {
  std::vector<float> values = reference::RandomMatrix(1, n, seed, 2.0f).data;
  const float special[] = {0.0f, 1e-4f, -1e-4f, 0.31f, -0.29f, 50.0f, -50.0f, 1e4f, -1e4f};
  for (size_t i = 0; i < values.size() && i < 9; ++i)
    values[values.size() - 1 - i] = special[(i + seed) % 9];
  return values;
}

TEST(CapScores, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      const std::vector<float> in = Values(n, static_cast<uint32_t>(n));
      for (const float cap : {1.0f, 50.0f}) {
        std::vector<float> out = in;
        CapScores(out.data(), n, 0.7f, cap);
        for (int64_t i = 0; i < n; ++i) {
          const double want = cap * std::tanh(double{in[i]} * 0.7 / cap);
          ASSERT_NEAR(out[i], want, std::abs(want) * 4e-6) << in[i] << " capped at " << cap;
        }
      }
    }
  });
}

TEST(SlopeScores, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      const std::vector<float> in = Values(n, 3);
      std::vector<float> out = in;
      SlopeScores(out.data(), n, 0.3f, 0.25f, -1000.0f);
      for (int64_t i = 0; i < n; ++i) {
        const double want = in[i] * 0.3 + 0.25 * (static_cast<double>(i) - 1000);
        ASSERT_NEAR(out[i], want, 1e-3) << i;  // an f32's step at 3000, a few times
      }
    }
  });
}

TEST(GateRow, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      const std::vector<float> in = Values(n, 5), gate = Values(n, 8);
      std::vector<float> out = in;
      GateRow(out.data(), gate.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        const double want = in[i] / (1 + std::exp(-double{gate[i]}));
        ASSERT_NEAR(out[i], want, std::abs(want) * 5e-6 + 1e-30) << gate[i];
      }
    }
  });
}

}  // namespace
}  // namespace kvasir
