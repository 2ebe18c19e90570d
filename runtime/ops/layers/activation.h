// The activation between the two products of a feed-forward layer. Parallel over rows; no
// allocation, no errors, preconditions are the caller's.
#pragma once

#include "runtime/kernels/activation_kernels.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// gated: out[r][i] = activation(x[r][i]) * x[r][half + i], half = x.cols / 2; else out[r][i] =
// activation(x[r][i]). out is resized. What the activation is taken of is scratch: its contents
// afterwards are unspecified.
void Activate(Activation activation, bool gated, MatrixView x, MatmulInput* out);

// x[r] = max(0, x[r] - (mean + deviations * standard deviation of x[r])): before the activation in
// the sparse layers of Gemma 3n.
void KeepLargest(MatrixView x, float deviations);

// The number of standard deviations below which a share p of a normal distribution lies; p in (0,
// 1). Takes microseconds: for loading.
double NormalQuantile(double p);

}  // namespace kvasir
