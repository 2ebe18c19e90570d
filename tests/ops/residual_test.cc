// The operations around sub-layers: norms, activations and the residual stream, over few rows and
// over enough to go parallel.
#include "runtime/ops/layers/residual.h"

#include <cmath>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "runtime/ops/layers/activation.h"
#include "runtime/ops/layers/norm.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::MaxDifference;
using reference::RandomMatrix;

const int64_t kRows[] = {1, 7, 200};

class SubLayerTest : public testing::Test {
 protected:
  void SetUp() override { SetComputeThreads(3); }
};

NormParams Params(const Matrix& weight, const Matrix& bias, bool centered) {
  NormParams norm;
  norm.centered = centered;
  norm.epsilon = 1e-5f;
  norm.weight = weight.data.data();
  norm.bias = bias.data.data();
  return norm;
}

TEST_F(SubLayerTest, NormalizeWritesEveryOperandForm) {
  for (const int64_t rows : kRows) {
    Matrix x = RandomMatrix(rows, 300, 1, 2.0f);
    const Matrix weight = RandomMatrix(1, 300, 2), bias = RandomMatrix(1, 300, 3);
    const Matrix expected = reference::Norm(x, true, weight.data, bias.data, 1e-5f);
    double most = 0;
    for (const float v : expected.data) most = std::max(most, std::abs(double{v}));
    for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8}) {
      MatmulInput out(type);
      Normalize(View(x), Params(weight, bias, true), &out);
      const ComputeType real = EffectiveComputeType(type);
      const double step = real == ComputeType::kF32    ? 1e-5
                          : real == ComputeType::kBf16 ? most * 0x1p-8
                                                       : most / 127 * 0.51;
      EXPECT_LT(MaxDifference(Floats(out), expected), step);
    }
    NormalizeInPlace(View(x), Params(weight, bias, true));
    EXPECT_LT(MaxDifference(x, expected), 1e-5);
  }
}

TEST_F(SubLayerTest, NormalizeHeadsByOneWeightOrEachItsOwn) {
  const int heads = 5, dim = 24;
  for (const int64_t rows : kRows) {
    for (const bool own : {false, true}) {
      Matrix x = RandomMatrix(rows, heads * dim, 4), expected = x;
      const Matrix weight = RandomMatrix(1, heads * dim, 5), bias = RandomMatrix(1, heads * dim, 6);
      for (int64_t r = 0; r < rows; ++r) {
        for (int h = 0; h < heads; ++h) {
          Matrix head(1, dim);
          std::copy_n(x.row(r) + h * dim, dim, head.data.data());
          const size_t at = own ? h * dim : 0;
          const Matrix out = reference::Norm(head, false, {weight.data.data() + at, size_t{dim}},
                                             {bias.data.data() + at, size_t{dim}}, 1e-5f);
          std::copy_n(out.data.data(), dim, expected.row(r) + h * dim);
        }
      }
      NormalizeHeads(View(x), heads, dim, Params(weight, bias, false), own ? dim : 0);
      EXPECT_LT(MaxDifference(x, expected), 1e-5);
    }
  }
}

TEST_F(SubLayerTest, ActivateGatedAndPlain) {
  for (const int64_t rows : kRows) {
    for (const bool gated : {false, true}) {
      Matrix x = RandomMatrix(rows, 2 * 86, 7);
      Matrix expected(rows, gated ? 86 : 172);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < expected.cols; ++i) {
          const double value = reference::Activate(Activation::kGeluTanh, x.at(r, i));
          expected.at(r, i) = static_cast<float>(gated ? value * x.at(r, 86 + i) : value);
        }
      }
      MatmulInput out(ComputeType::kF32);
      Activate(Activation::kGeluTanh, gated, View(x), &out);
      EXPECT_LT(MaxDifference(Floats(out), expected), 1e-5);
    }
  }
}

TEST_F(SubLayerTest, ContributionsJoinTheResidual) {
  const Matrix weight = RandomMatrix(1, 300, 1), bias = RandomMatrix(1, 300, 2);
  for (const int64_t rows : kRows) {
    for (const bool before : {false, true}) {
      for (const bool after : {false, true}) {
        for (const float multiplier : {1.0f, 0.22f}) {
          Matrix x = RandomMatrix(rows, 300, 3), c = RandomMatrix(rows, 300, 4);
          Matrix expected = before ? reference::Norm(c, false, weight.data, bias.data, 1e-5f) : c;
          for (size_t i = 0; i < expected.data.size(); ++i)
            expected.data[i] = x.data[i] + multiplier * expected.data[i];
          if (after) expected = reference::Norm(expected, true, weight.data, bias.data, 1e-5f);
          ResidualJoin join;
          if (before) join.contribution_norm = Params(weight, bias, false);
          join.multiplier = multiplier;
          if (after) join.out_norm = Params(weight, bias, true);
          JoinResidual(View(c), join, View(x));
          EXPECT_LT(MaxDifference(x, expected), 1e-5);
        }
      }
    }
  }
}

TEST_F(SubLayerTest, ScalesRowsAndColumnsOfHeads) {
  for (const int64_t rows : kRows) {
    const Matrix original = RandomMatrix(rows, 240, 1), factors = RandomMatrix(1, rows + 24, 2);
    Matrix x = original, expected = original;
    ScaleRows(View(x), absl::MakeConstSpan(factors.data.data(), static_cast<size_t>(rows)));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < 240; ++i) expected.at(r, i) *= factors.data[r];
    EXPECT_EQ(x.data, expected.data);
    x = expected = original;
    ScaleHeadColumns(View(x), 10, 24, factors.data.data());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < 240; ++i) expected.at(r, i) *= factors.data[i % 24];
    EXPECT_EQ(x.data, expected.data);
    x = expected = original;
    CapLogits(View(x), 0.5f, 3.0f);
    for (float& v : expected.data) v = static_cast<float>(3 * std::tanh(v * 0.5 / 3));
    EXPECT_LT(MaxDifference(x, expected), 1e-5);
  }
}

}  // namespace
}  // namespace kvasir
