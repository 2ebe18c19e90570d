#include "runtime/kernels/activation_kernels.h"

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

const std::vector<int64_t> kLengths = {1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 100, 257};

TEST(ActivateRow, AgreesWithNaiveAlsoFarOut) {
  ForEachDispatchTarget([] {
    for (const Activation activation : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                        Activation::kRelu, Activation::kRelu2}) {
      for (const bool gated : {false, true}) {
        for (const int64_t n : kLengths) {
          Matrix x = RandomMatrix(1, n, 3, 4.0f);
          const Matrix up = RandomMatrix(1, n, 4);
          const std::vector<float> far = {0.0f,    -0.0f, 30.0f, -30.0f, 100.0f,
                                          -100.0f, 1e4f,  -1e4f, 1e-3f,  -1e-3f};
          for (size_t i = 0; i < far.size() && static_cast<int64_t>(i) < n / 2; ++i)
            x.data[i] = far[i];
          Matrix expected(1, n);
          for (int64_t i = 0; i < n; ++i) {
            const double value = reference::Activate(activation, x.data[i]);
            expected.data[i] = static_cast<float>(gated ? value * up.data[i] : value);
          }
          const float* gate = gated ? up.data.data() : nullptr;
          std::vector<float> f32(n);
          std::vector<bf16> narrow(n);
          std::vector<uint8_t> u8(n);
          ActivateRow(activation, x.data.data(), gate, n, f32.data());
          ActivateRow(activation, x.data.data(), gate, n, narrow.data());
          for (int64_t i = 0; i < n; ++i) {
            // Relative: exp's error grows with its argument. The exact GELU's erf is within 1.5e-7.
            const double want = expected.data[i], scale = gated ? std::abs(up.data[i]) : 1.0;
            ASSERT_NEAR(f32[i], want,
                        std::abs(want) * 4e-6 + scale * std::min(8.0f, std::abs(x.data[i])) * 2e-7)
                << x.data[i] << " by " << static_cast<int>(activation);
          }
          const float scale = ActivateRow(activation, x.data.data(), gate, n, u8.data());
          // Values of 8 and more have no tail left to be wrong by.
          ExpectForms(expected, f32, narrow, u8, scale, 5 * 8 * 2e-7);
        }
      }
    }
  });
}

}  // namespace
}  // namespace kvasir
