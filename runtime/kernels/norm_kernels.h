// Normalising one row, into the form that the next product reads (f32, bf16, or u8 with zero point
// 128 and a returned scale). Arithmetic in f32. Raw pointers, no alignment needed. Thread safe:
// pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

namespace kvasir {

// out = (x - mean) / sqrt(mean((x - mean)^2) + epsilon) * weight + bias, where `mean` is 0 unless
// centered: RMSNorm (arXiv 1910.07467) without, LayerNorm (arXiv 1607.06450) with.
struct NormParams {
  bool centered = false;
  float epsilon = 1e-6f;
  const float* weight = nullptr;  // [n], or null: 1
  const float* bias = nullptr;    // [n], or null: 0; only with a weight
};

// All [n], n >= 1. `out` of floats may be x.
void NormRow(const float* x, const NormParams& norm, size_t n, float* out);
void NormRow(const float* x, const NormParams& norm, size_t n, bf16* out);
float NormRow(const float* x, const NormParams& norm, size_t n, uint8_t* out);

}  // namespace kvasir
