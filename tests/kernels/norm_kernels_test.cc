#include "runtime/kernels/norm_kernels.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/operand_forms.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

const std::vector<int64_t> kLengths = {1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 100, 257, 1024};

TEST(NormRow, AgreesWithNaiveForEveryKindAndTarget) {
  ForEachDispatchTarget([] {
    for (const int64_t n : kLengths) {
      Matrix x = RandomMatrix(1, n, 1, 3.0f);
      for (float& v : x.data) v += 5;  // a mean that matters
      const Matrix weight = RandomMatrix(1, n, 2), bias = RandomMatrix(1, n, 3);
      for (const bool centered : {false, true}) {
        for (const int parts : {0, 1, 2}) {  // none, weight, weight and bias
          NormParams norm;
          norm.centered = centered;
          norm.epsilon = 1e-3f;
          if (parts > 0) norm.weight = weight.data.data();
          if (parts > 1) norm.bias = bias.data.data();
          const size_t weights = parts > 0 ? n : 0, biases = parts > 1 ? n : 0;
          const Matrix expected =
              reference::Norm(x, centered, {norm.weight, weights}, {norm.bias, biases}, 1e-3f);
          std::vector<float> f32(n);
          std::vector<bf16> narrow(n);
          std::vector<uint8_t> u8(n);
          NormRow(x.data.data(), norm, n, f32.data());
          NormRow(x.data.data(), norm, n, narrow.data());
          const float scale = NormRow(x.data.data(), norm, n, u8.data());
          ExpectForms(expected, f32, narrow, u8, scale);
          std::vector<float> in_place = x.data;
          NormRow(in_place.data(), norm, n, in_place.data());
          ASSERT_EQ(in_place, f32);
        }
      }
    }
  });
}

}  // namespace
}  // namespace kvasir
