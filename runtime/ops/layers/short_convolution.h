// The short convolution between its two projections (LFM2): y = C * conv(B * x), B, C and x
// projected from the same input. Per sequence and layer a state: the last kernel - 1 rows of B * x
// [kernel - 1][channels] f32. Owns scratch: one per Decoder, not thread safe.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/ops/layers/recurrent_state.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class ShortConvolution {
 public:
  static int64_t StateFloats(int kernel, int64_t channels) { return (kernel - 1) * channels; }

  // projected: [rows, 3 * channels] = B, C, x; weight: [kernel][channels]; bias: [channels] or
  // null. out: [rows, channels], resized. Rows that belong to no sequence get unspecified values.
  void Run(MatrixView projected, int kernel, const float* weight, const float* bias,
           absl::Span<const RecurrentSequence> sequences, MatmulInput* out);

 private:
  AlignedBuffer<float> gated_;      // [rows][channels]: B * x
  AlignedBuffer<float> convolved_;  // [rows][channels]
};

}  // namespace kvasir
