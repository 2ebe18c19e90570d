#include "runtime/ops/layers/delta_net.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/kernels/layer_kernels.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"
#include "tests/reference/naive_recurrent.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

// 64-byte aligned and full of NaN, as a slot of the pool may be.
AlignedBuffer<float> PoisonedState(int64_t floats) {
  AlignedBuffer<float> state(floats);
  std::fill_n(state.data(), floats, NAN);
  return state;
}

Matrix Rows(const Matrix& all, int64_t first, int64_t count) {
  Matrix some(count, all.cols);
  std::copy_n(all.row(first), count * all.cols, some.data.data());
  return some;
}

// --- the convolution ---

TEST(CausalConvolution, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int kernel : {1, 2, 3, 4, 16}) {
      for (const int64_t channels : {1, 5, 64, 2100}) {
        for (const bool silu : {false, true}) {
          Matrix x = RandomMatrix(19, channels, 1), out(19, channels);
          const Matrix weight = RandomMatrix(kernel, channels, 2);
          const Matrix bias = RandomMatrix(1, channels, 3);
          AlignedBuffer<float> state = PoisonedState((kernel - 1) * channels + 1);
          CausalConvolution(View(x), {{0, 19, state.data(), true}}, kernel, weight.data.data(),
                            silu ? nullptr : bias.data.data(), silu, View(out));
          const Matrix expected = reference::CausalConvolution(
              x, weight, silu ? absl::Span<const float>() : bias.data, silu);
          ASSERT_LE(reference::MaxDifference(out, expected), 2e-5) << kernel << " " << channels;
        }
      }
    }
  });
}

TEST(CausalConvolution, AnyChunksGiveTheSameBits) {
  constexpr int kKernel = 4, kTokens = 23, kChannels = 37;
  Matrix x = RandomMatrix(kTokens, kChannels, 1), whole(kTokens, kChannels);
  const Matrix weight = RandomMatrix(kKernel, kChannels, 2);
  AlignedBuffer<float> state = PoisonedState((kKernel - 1) * kChannels);
  const auto run = [&](int first, int count, Matrix* out) {
    Matrix part = Rows(x, first, count), part_out(count, kChannels);
    CausalConvolution(View(part), {{0, count, state.data(), first == 0}}, kKernel,
                      weight.data.data(), nullptr, true, View(part_out));
    std::copy(part_out.data.begin(), part_out.data.end(), out->row(first));
  };
  run(0, kTokens, &whole);
  const std::vector<float> last(state.data(), state.data() + state.size());
  for (int chunk = 1; chunk < kTokens; ++chunk) {
    Matrix out(kTokens, kChannels);
    std::fill_n(state.data(), state.size(), NAN);
    for (int first = 0; first < kTokens; first += chunk) {
      run(first, std::min(chunk, kTokens - first), &out);
    }
    ASSERT_EQ(out.data, whole.data) << chunk;
    ASSERT_EQ(std::memcmp(last.data(), state.data(), last.size() * sizeof(float)), 0) << chunk;
  }
}

// --- the delta net ---

struct Net {
  explicit Net(const DeltaNetShape& shape, uint32_t seed = 1)
      : shape(shape),
        conv(RandomMatrix(shape.conv_kernel, shape.conv_channels(), seed, 0.5f)),
        decay(RandomMatrix(1, shape.value_heads, seed + 1)),
        dt_bias(RandomMatrix(1, shape.value_heads, seed + 2)),
        norm(RandomMatrix(1, shape.value_dim, seed + 3)) {
    for (float& a : decay.data) a = std::exp(a);
  }

  DeltaNetParameters parameters() const {
    return {conv.data.data(), decay.data.data(), dt_bias.data.data(), norm.data.data()};
  }

  Matrix Naive(const Matrix& projected) const {
    return reference::DeltaNet(
        projected,
        {shape.key_heads, shape.value_heads, shape.key_dim, shape.value_dim, shape.norm_epsilon},
        conv, decay.data, dt_bias.data, norm.data);
  }

  // f32 results.
  Matrix Run(Matrix projected, absl::Span<const RecurrentSequence> sequences) const {
    DeltaNet net;
    MatmulInput out(ComputeType::kF32);
    net.Run(View(projected), shape, parameters(), sequences, &out);
    return Floats(out);
  }

  DeltaNetShape shape;
  Matrix conv, decay, dt_bias, norm;
};

DeltaNetShape Shape(int key_heads, int value_heads, int key_dim, int value_dim) {
  DeltaNetShape shape;
  shape.key_heads = key_heads;
  shape.value_heads = value_heads;
  shape.key_dim = key_dim;
  shape.value_dim = value_dim;
  return shape;
}

const DeltaNetShape kShapes[] = {Shape(1, 1, 1, 1),   Shape(2, 4, 16, 16),   Shape(1, 3, 7, 5),
                                 Shape(2, 2, 32, 70), Shape(1, 2, 128, 128), Shape(3, 3, 20, 129)};

TEST(DeltaNet, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const DeltaNetShape& shape : kShapes) {
      const Net net(shape);
      const Matrix x = RandomMatrix(21, shape.projected_columns(), 7);
      AlignedBuffer<float> state = PoisonedState(shape.StateFloats());
      const Matrix out = net.Run(x, {{0, 21, state.data(), true}});
      const Matrix expected = net.Naive(x);
      double largest = 0;
      for (const float v : expected.data) largest = std::max(largest, std::abs(double{v}));
      ASSERT_LE(reference::MaxDifference(out, expected), largest * 2e-5)
          << shape.value_heads << " heads of " << shape.key_dim << "x" << shape.value_dim;
    }
  });
}

TEST(DeltaNet, AnyChunksGiveTheSameBits) {
  constexpr int kTokens = 17;
  for (const DeltaNetShape& shape : kShapes) {
    const Net net(shape);
    const Matrix x = RandomMatrix(kTokens, shape.projected_columns(), 7);
    AlignedBuffer<float> whole_state = PoisonedState(shape.StateFloats());
    const Matrix whole = net.Run(x, {{0, kTokens, whole_state.data(), true}});
    for (const int chunk : {1, 2, 5, 16}) {
      AlignedBuffer<float> state = PoisonedState(shape.StateFloats());
      for (int first = 0; first < kTokens; first += chunk) {
        const int count = std::min(chunk, kTokens - first);
        const Matrix part = net.Run(Rows(x, first, count), {{0, count, state.data(), first == 0}});
        for (int64_t i = 0; i < part.rows * part.cols; ++i) {
          ASSERT_EQ(part.data[i], whole.row(first)[i]) << "chunks of " << chunk;
        }
      }
      const int64_t s = shape.ConvStateFloats();
      ASSERT_EQ(std::memcmp(state.data() + s, whole_state.data() + s,
                            (shape.StateFloats() - s) * sizeof(float)),
                0);
    }
  }
}

TEST(DeltaNet, StrangersInTheBatchChangeNothing) {
  const DeltaNetShape shape = Shape(2, 4, 24, 40);
  const Net net(shape);
  const int lengths[] = {1, 9, 1, 4};
  std::vector<AlignedBuffer<float>> states;
  std::vector<RecurrentSequence> sequences;
  int rows = 0;
  for (const int length : lengths) {
    states.push_back(PoisonedState(shape.StateFloats()));
    sequences.push_back({rows, length, states.back().data(), true});
    rows += length;
  }
  const Matrix x = RandomMatrix(rows, shape.projected_columns(), 7);
  const Matrix batched = net.Run(x, sequences);
  for (const RecurrentSequence& sequence : sequences) {
    AlignedBuffer<float> state = PoisonedState(shape.StateFloats());
    const Matrix alone = net.Run(Rows(x, sequence.first_row, sequence.num_rows),
                                 {{0, sequence.num_rows, state.data(), true}});
    for (int64_t i = 0; i < alone.rows * alone.cols; ++i) {
      ASSERT_EQ(alone.data[i], batched.row(sequence.first_row)[i]);
    }
  }
}

TEST(DeltaNet, WritesTheNextProductsForm) {
  const Net net(kShapes[1]);
  const Matrix x = RandomMatrix(6, net.shape.projected_columns(), 7);
  AlignedBuffer<float> state = PoisonedState(net.shape.StateFloats());
  const Matrix exact = net.Run(x, {{0, 6, state.data(), true}});
  for (const ComputeType type : {ComputeType::kBf16, ComputeType::kInt8}) {
    DeltaNet op;
    MatmulInput out(type);
    Matrix projected = x;
    op.Run(View(projected), net.shape, net.parameters(), {{0, 6, state.data(), true}}, &out);
    const Matrix values = Floats(out);
    for (int64_t r = 0; r < exact.rows; ++r) {
      double largest = 0;
      for (int64_t c = 0; c < exact.cols; ++c) {
        largest = std::max(largest, std::abs(double{exact.at(r, c)}));
      }
      for (int64_t c = 0; c < exact.cols; ++c) {
        ASSERT_NEAR(values.at(r, c), exact.at(r, c), largest / 127);
      }
    }
  }
}

// Inputs far out: nothing overflows where the reference's formula is finite.
TEST(DeltaNet, LargeInputsStayFinite) {
  const Net net(Shape(1, 2, 16, 16));
  Matrix x = RandomMatrix(8, net.shape.projected_columns(), 7, 300.0f);
  AlignedBuffer<float> state = PoisonedState(net.shape.StateFloats());
  const Matrix out = net.Run(x, {{0, 8, state.data(), true}});
  for (const float v : out.data) ASSERT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace kvasir
