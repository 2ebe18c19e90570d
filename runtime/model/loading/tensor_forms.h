// The ways in which checkpoints store a weight other than as a matrix of its own: forms for
// TensorNames. Each says what the stored tensor looks like; "rows" are those of the role, outputs.
// Pure functions, thread safe.
#pragma once

#include "runtime/model/loading/tensor_map.h"

namespace kvasir {

// Stored [in, out] (GPT-2's Conv1D). Biases are plain.
TensorForm TransposedForm();

// Q, K and V of a layer as rows of one tensor.
enum class QkvOrder {
  kStacked,  // all of Q, all of K, all of V
  kGrouped,  // for each KV head: its query heads, its K, its V
};
TensorForm FusedQkvForm(QkvOrder order, bool transposed = false);

// Query heads and their output gates: [head][query, gate] of head_dim rows each.
TensorForm GatedQueryForm();

// Gate and up as rows of one tensor, for the roles kGate and kUp, kSharedGate and kSharedUp: all of
// gate, then all of up.
TensorForm FusedGateUpForm();

// All experts in one tensor, [experts, out, in].
TensorForm StackedForm();
// The same with gate and up in one: [experts, 2 * width, in], gate first.
TensorForm StackedGateUpForm();
// [experts, in, out], and [experts, in, 2 * width] with gate and up in turns; biases [experts, out]
// (gpt-oss).
TensorForm StackedTransposedForm();
TensorForm StackedTransposedTurnsForm();

// Depthwise convolutions, stored [channels, 1, kernel]; the role has [kernel, channels].
TensorForm ConvolutionForm();

// Delta net inputs: NAME_qkv, NAME_z, NAME_b and NAME_a (Qwen 3.5), or NAME_qkvz and NAME_ba whose
// rows are grouped by key head (Qwen3-Next).
TensorForm DeltaInForm();
TensorForm GroupedDeltaInForm();

// W_UK transposed, and W_UV, of one head out of kv_b_proj: [head][nope rows, v rows].
TensorForm KeyUpForm();
TensorForm ValueUpForm();

// A norm weight for all heads, stored [heads, head_dim].
TensorForm NormOfHeadsForm();
// A norm weight per head, each in a tensor of its own: "{h}" in the name stands for the head.
TensorForm NormPerHeadForm();

// Changes of a form.
// Rotary pairs (2i, 2i + 1) of each head become (i, i + rotary_dim / 2): what the kernels rotate.
TensorForm InterleavedRope(TensorForm form);
TensorForm AddOne(TensorForm form);       // 1 + weight
TensorForm Exponential(TensorForm form);  // exp(weight)

}  // namespace kvasir
