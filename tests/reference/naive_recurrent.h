// Naive twins of the layers with a recurrent state: whole sequences from their first token on,
// plain loops in double, the state a table.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "tests/reference/naive_ops.h"

namespace kvasir::reference {

// out[t][c] = bias[c] + sum over j of weight[j][c] * x[t - kernel + 1 + j][c]; inputs before the
// first are 0. weight: [kernel][channels]; bias empty = none.
Matrix CausalConvolution(const Matrix& x, const Matrix& weight, absl::Span<const float> bias,
                         bool silu);

struct DeltaNetSizes {
  int key_heads, value_heads, key_dim, value_dim;
  double norm_epsilon;
};

// projected: [tokens][q, k, v, z, b, a]. conv: [kernel][channels]; decay = exp(A_log) and dt_bias:
// [value_heads]; norm: [value_dim]. Returns [tokens][value_heads * value_dim].
Matrix DeltaNet(const Matrix& projected, const DeltaNetSizes& sizes, const Matrix& conv,
                absl::Span<const float> decay, absl::Span<const float> dt_bias,
                absl::Span<const float> norm);

}  // namespace kvasir::reference
