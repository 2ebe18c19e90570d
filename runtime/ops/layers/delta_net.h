// The gated delta net between its two projections (Qwen3-Next, Qwen3.5): convolution over q, k and
// v, unit q and k, the gated delta rule per value head, and the gated norm of its outputs.
//
// Per sequence and layer a state of f32: the convolution's last inputs [conv_kernel - 1][channels],
// then S in blocks of kStateColumns value columns: [value_heads][blocks][key_dim][columns]. A step
// reads it once and writes it once, however many tokens it computes.
//
// Parallel over sequences, heads and column blocks. Owns scratch: one per Decoder, not thread safe.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/ops/layers/recurrent_state.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

struct DeltaNetShape {
  // Value columns per block of S: with 128 keys 32 KiB, which the first cache level holds.
  static constexpr int kStateColumns = 64;

  int key_heads = 0;
  int value_heads =
      0;  // a multiple of key_heads; head h reads key head h * key_heads / value_heads
  int key_dim = 0;
  int value_dim = 0;
  int conv_kernel = 4;
  float norm_epsilon = 1e-6f;

  int64_t conv_channels() const {
    return 2 * int64_t{key_heads} * key_dim + int64_t{value_heads} * value_dim;
  }
  // Columns of the first projection: q, k, v, z, b, a.
  int64_t projected_columns() const {
    return conv_channels() + int64_t{value_heads} * (value_dim + 2);
  }
  // Rounded up to whole cache lines, so that S behind it is aligned.
  int64_t ConvStateFloats() const { return ((conv_kernel - 1) * conv_channels() + 15) / 16 * 16; }
  int64_t StateFloats() const {
    return ConvStateFloats() + int64_t{value_heads} * key_dim * value_dim;
  }
};

// Of one layer; borrowed.
struct DeltaNetParameters {
  const float* conv = nullptr;     // [conv_kernel][conv_channels]
  const float* decay = nullptr;    // [value_heads], exp(A_log)
  const float* dt_bias = nullptr;  // [value_heads]
  const float* norm = nullptr;     // [value_dim]
};

class DeltaNet {
 public:
  // projected: [rows, projected_columns] = q, k, v (heads in order), z, b, a. out: [rows,
  // value_heads * value_dim], resized. Rows that belong to no sequence get unspecified values.
  void Run(MatrixView projected, const DeltaNetShape& shape, const DeltaNetParameters& parameters,
           absl::Span<const RecurrentSequence> sequences, MatmulInput* out);

 private:
  AlignedBuffer<float> convolved_;  // [rows][conv_channels]
  AlignedBuffer<float> scalars_;    // [3][rows][value_heads]: decay, beta, q . k
  AlignedBuffer<float> mixed_;      // [rows][value_heads * value_dim]
};

}  // namespace kvasir
