// The residual stream's side of a decoder layer: how what a sub-layer contributes joins it.
// Parallel over rows; no allocation, no errors, preconditions are the caller's.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "runtime/kernels/norm_kernels.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// x = out_norm(x + multiplier * contribution_norm(c)); a norm that is absent changes nothing.
struct ResidualJoin {
  std::optional<NormParams> contribution_norm;
  float multiplier = 1.0f;
  std::optional<NormParams> out_norm;
};

// Joins c [rows, hidden] to x, row by row. c is scratch afterwards.
void JoinResidual(MatrixView c, const ResidualJoin& join, MatrixView x);

// x[r] *= factor.
void ScaleRows(MatrixView x, float factor);
// x[r] *= factors[r].
void ScaleRows(MatrixView x, absl::Span<const float> factors);

// Every column by itself in each head [num_heads][head_dim]: x[r][h][i] *= factors[i].
void ScaleHeadColumns(MatrixView x, int num_heads, int head_dim, const float* factors);

// x = multiplier * x, or cap * tanh(multiplier * x / cap) where cap > 0: of the logits.
void CapLogits(MatrixView x, float multiplier, float cap);

}  // namespace kvasir
