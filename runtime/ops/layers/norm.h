// Normalising rows: into the next product's operand, in place, or head by head. Parallel over rows;
// no allocation, no errors, preconditions are the caller's.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "runtime/kernels/norm_kernels.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// out[i] = norm(x[i]), converted to out's compute type. Weight and bias: [x.cols]. out is resized.
void Normalize(MatrixView x, const NormParams& norm, MatmulInput* out);

// x[i] = norm(x[i]).
void NormalizeInPlace(MatrixView x, const NormParams& norm);

// Each of the heads [num_heads][head_dim] of every row by itself, in place. The weight of head h
// begins at h * weight_stride, and so does its bias: 0 for one that all share.
void NormalizeHeads(MatrixView x, int num_heads, int head_dim, const NormParams& norm,
                    int weight_stride);

}  // namespace kvasir
