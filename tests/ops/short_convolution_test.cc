#include "runtime/ops/layers/short_convolution.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"
#include "tests/reference/naive_recurrent.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

struct Layer {
  Layer(int kernel, int64_t channels)
      : weight(RandomMatrix(kernel, channels, 1)),
        bias(RandomMatrix(1, channels, 2)),
        state(ShortConvolution::StateFloats(kernel, channels)) {
    Forget();
  }

  void Forget() { std::fill_n(state.data(), state.size(), NAN); }

  // The rows [first, first + count) of x as the next tokens of one sequence.
  Matrix Run(const Matrix& x, int64_t first, int64_t count) {
    Matrix part(count, x.cols);
    std::copy_n(x.row(first), count * x.cols, part.data.data());
    MatmulInput out(ComputeType::kF32);
    op.Run(View(part), static_cast<int>(weight.rows), weight.data.data(), bias.data.data(),
           {{0, static_cast<int32_t>(count), state.data(), first == 0}}, &out);
    return Floats(out);
  }

  ShortConvolution op;
  Matrix weight, bias;
  AlignedBuffer<float> state;
};

// y = C * conv(B * x)
Matrix Naive(const Matrix& x, const Layer& layer) {
  const int64_t channels = x.cols / 3;
  Matrix gated(x.rows, channels);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t c = 0; c < channels; ++c) gated.at(t, c) = x.at(t, c) * x.at(t, 2 * channels + c);
  }
  Matrix y = reference::CausalConvolution(gated, layer.weight, layer.bias.data, false);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t c = 0; c < channels; ++c) y.at(t, c) *= x.at(t, channels + c);
  }
  return y;
}

TEST(ShortConvolution, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int kernel : {1, 3, 4}) {
      for (const int64_t channels : {1, 19, 64, 1024}) {
        Layer layer(kernel, channels);
        const Matrix x = RandomMatrix(15, 3 * channels, 3);
        ASSERT_LE(reference::MaxDifference(layer.Run(x, 0, 15), Naive(x, layer)), 1e-4);
      }
    }
  });
}

TEST(ShortConvolution, AnyChunksGiveTheSameBits) {
  Layer layer(3, 33);
  const Matrix x = RandomMatrix(15, 99, 3);
  const Matrix whole = layer.Run(x, 0, 15);
  for (int chunk = 1; chunk < 15; ++chunk) {
    layer.Forget();
    for (int first = 0; first < 15; first += chunk) {
      const Matrix part = layer.Run(x, first, std::min(chunk, 15 - first));
      for (size_t i = 0; i < part.data.size(); ++i) {
        ASSERT_EQ(part.data[i], whole.row(first)[i]) << chunk;
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
