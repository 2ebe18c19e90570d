#include "runtime/ops/elementwise.h"

#include <cmath>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "runtime/ops/layers/activation.h"
#include "runtime/ops/layers/norm.h"
#include "tests/ops/paged_kv.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

// Of values up to `max` in a compute type's form.
double Step(ComputeType type, double max) {
  switch (EffectiveComputeType(type)) {
    case ComputeType::kF32:
      return max * 2e-6;
    case ComputeType::kBf16:
      return max * 0x1p-8;
    case ComputeType::kInt8:
      return max / 127 * 0.51;
  }
  return 0;
}

double MaxAbs(const Matrix& m) {
  double max = 0;
  for (const float x : m.data) max = std::max(max, std::abs(static_cast<double>(x)));
  return max;
}

class ElementwiseTest : public testing::TestWithParam<ComputeType> {
 protected:
  void SetUp() override { SetComputeThreads(3); }
};

INSTANTIATE_TEST_SUITE_P(ComputeTypes, ElementwiseTest,
                         testing::Values(ComputeType::kF32, ComputeType::kBf16,
                                         ComputeType::kInt8));

TEST_P(ElementwiseTest, RmsNormOfAllRows) {
  for (const int64_t rows : {1, 7, 200}) {  // the last one in parallel
    Matrix x = RandomMatrix(rows, 300, 1, 2.0f);
    const Matrix weight = RandomMatrix(1, 300, 2);
    MatmulInput out(GetParam());
    Normalize(View(x), {.epsilon = 1e-6f, .weight = weight.data.data()}, &out);
    const Matrix expected = reference::RmsNorm(x, {}, weight.data, 1e-6);
    EXPECT_LT(reference::MaxDifference(Floats(out), expected), Step(GetParam(), MaxAbs(expected)));
  }
}

TEST_P(ElementwiseTest, SiluMul) {
  for (const int64_t rows : {1, 5, 150}) {
    Matrix gate_up = RandomMatrix(rows, 2 * 172, 3, 2.0f);
    const Matrix expected = reference::SiluMul(gate_up);
    MatmulInput out(GetParam());
    Activate(Activation::kSilu, /*gated=*/true, View(gate_up), &out);
    ASSERT_EQ(out.cols(), 172);
    EXPECT_LT(reference::MaxDifference(Floats(out), expected), Step(GetParam(), MaxAbs(expected)));
  }
}

TEST(ApplyRope, RotatesTheFirstDimensionsOfEachHead) {
  SetComputeThreads(3);
  const int heads = 5, head_dim = 40, max_positions = 600;
  for (const int rotary_dim : {40, 16}) {
    std::vector<float> cos(max_positions * rotary_dim / 2), sin(cos.size());
    for (int p = 0; p < max_positions; ++p) {
      for (int i = 0; i < rotary_dim / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / rotary_dim);
        cos[p * rotary_dim / 2 + i] = static_cast<float>(std::cos(angle));
        sin[p * rotary_dim / 2 + i] = static_cast<float>(std::sin(angle));
      }
    }
    for (const int64_t rows : {3, 300}) {
      Matrix x = RandomMatrix(rows, heads * head_dim, 4);
      std::vector<int32_t> positions;
      for (int64_t r = 0; r < rows; ++r)
        positions.push_back(static_cast<int32_t>(r * 37 % max_positions));
      Matrix expected = x;
      reference::Rope(&expected, heads, head_dim, rotary_dim, positions, 10000.0);
      ApplyRope(View(x), heads, head_dim, positions, {cos.data(), sin.data(), rotary_dim});
      EXPECT_LT(reference::MaxDifference(x, expected), 3e-6);
    }
  }
}

TEST(WriteKv, StoresEachTypeWithItsRounding) {
  for (const KvElementType type :
       {KvElementType::kF32, KvElementType::kBf16, KvElementType::kF16, KvElementType::kInt8}) {
    PagedKvSpec spec;
    spec.kv_heads = 3;
    spec.k_dim = 24;
    spec.v_dim = 40;
    spec.element_type = type;
    spec.block_tokens = 16;
    PagedKv pool(spec);
    const Matrix k = RandomMatrix(45, 72, 1), v = RandomMatrix(45, 120, 2);
    const auto blocks = pool.Add(k, v);
    // int8 steps are max / 127 per row and head; the others round relative to each element (below 5
    // here).
    const double tolerance = type == KvElementType::kF32    ? 0
                             : type == KvElementType::kBf16 ? 5 * 0x1p-8
                             : type == KvElementType::kF16  ? 5 * 0x1p-11
                                                            : 5.0 / 127 * 0.51;
    EXPECT_LE(reference::MaxDifference(pool.ReadK(blocks, 45), k), tolerance)
        << KvElementTypeName(type);
    EXPECT_LE(reference::MaxDifference(pool.ReadV(blocks, 45), v), tolerance)
        << KvElementTypeName(type);
  }
}

}  // namespace
}  // namespace kvasir
