// The activation of a feed-forward layer over one row, into the form that the next product reads
// (f32, bf16, or u8 with zero point 128 and a returned scale). Arithmetic in f32. Raw pointers, no
// alignment needed. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

namespace kvasir {

enum class Activation {
  kSilu,      // x / (1 + exp(-x))
  kGelu,      // x * (1 + erf(x / sqrt 2)) / 2
  kGeluTanh,  // x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2
  kRelu,
  kRelu2,  // relu(x)^2
};

// out = activation(x) * up, or activation(x) where `up` is null; all [n].
void ActivateRow(Activation activation, const float* x, const float* up, size_t n, float* out);
void ActivateRow(Activation activation, const float* x, const float* up, size_t n, bf16* out);
// Keeps the products in x's place, so that quantising need not compute them twice.
float ActivateRow(Activation activation, float* x, const float* up, size_t n, uint8_t* out);

}  // namespace kvasir
