// What layers with a recurrent state share: which rows of a step belong to which state, and the
// causal convolution over them.
//
// A state is memory of one sequence and one layer, handed over by whoever keeps it (the pool's
// state slots); contents are f32 and opaque to everyone but the operation. Results do not depend on
// how a sequence's tokens are cut into steps: every token passes the same arithmetic in order.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// Most inputs that a convolution may look at: its kernel.
inline constexpr int kMaxConvolutionInputs = 16;

// The new tokens of one sequence: consecutive rows of the step.
struct RecurrentSequence {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  // Of one layer, 64-byte aligned; as many floats as the operation's StateFloats says.
  float* state = nullptr;
  // The sequence begins here: the state's contents are not read (they may be anything).
  bool fresh = false;
};

// Depthwise causal convolution over each sequence, its state being the last kernel - 1 inputs
// [kernel - 1][channels], oldest first, which are brought up to date.
//   out[r][c] = bias[c] + sum over j < kernel of weight[j][c] * x[r - kernel + 1 + j][c], then
//   silu if asked for.
// x, out: [rows, channels]; weight: [kernel][channels]; bias: [channels] or null. kernel is at most
// kMaxConvolutionInputs.
void CausalConvolution(MatrixView x, absl::Span<const RecurrentSequence> sequences, int kernel,
                       const float* weight, const float* bias, bool silu, MatrixView out);

}  // namespace kvasir
