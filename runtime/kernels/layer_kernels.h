// Kernels of what layers compute beside attention (runtime/ops/layers): the causal convolution, the
// gated delta rule, the clamped gate of gpt-oss, small maps. Arithmetic in f32. Raw pointers, no
// alignment needed; outputs must not overlap inputs unless said. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvasir {

// Most inputs that a convolution looks at.
inline constexpr size_t kMaxConvKernel = 16;

// One output row of a depthwise causal convolution:
//   out[c] = bias[c] + sum over j of weight[j * stride + c] * window[j][c], then times its sigmoid
//   with silu.
// window: [kernel] rows of inputs, oldest first; bias may be null; out: [n].
void ConvolveRow(const float* const* window, size_t kernel, const float* weight, size_t stride,
                 const float* bias, bool silu, size_t n, float* out);

// x *= scale / sqrt(sum(x^2) + epsilon), in place; [n].
void UnitRow(float* x, float scale, float epsilon, size_t n);

// Sum of a * b; [n].
float DotRow(const float* a, const float* b, size_t n);

// out = x * rsqrt(mean(x^2) + epsilon) * weight * silu(gate); all [n], out may be x.
void GatedNormRow(const float* x, const float* weight, const float* gate, float epsilon, size_t n,
                  float* out);

// out = x * y; all [n], out may be x or y.
void MulRow(const float* x, const float* y, size_t n, float* out);

// x *= scale; [n].
void ScaleRow(float scale, size_t n, float* x);

// x = max(0, x - (mean(x) + deviations * standard deviation of x)); [n], n >= 1.
void KeepOutliersRow(float deviations, size_t n, float* x);

// gpt-oss's gate: g = min(gate, clamp), u = up within +-clamp, out = (u + 1) * g * sigmoid(alpha *
// g); all [n], out may be gate or up.
void ClampedGateRow(const float* gate, const float* up, float clamp, float alpha, size_t n,
                    float* out);

// Tokens of one head in order, their rows a fixed number of floats apart.
struct DeltaTokens {
  size_t count = 0;
  const float* q = nullptr;  // [count][key_dim]
  const float* k = nullptr;  // [count][key_dim]
  size_t key_stride = 0;     // of q and k
  const float* v = nullptr;  // [count][columns]
  size_t value_stride = 0;
  const float* decay = nullptr;  // [count], in (0, 1]
  const float* beta = nullptr;   // [count]
  const float* qk = nullptr;     // [count]: q . k
  size_t scalar_stride = 0;      // of decay, beta and qk
  float* out = nullptr;          // [count][columns]
  size_t out_stride = 0;
};

// The gated delta rule over some value columns of one head (Yang et al., "Gated Delta Networks"):
//   S = decay * S;  delta = beta * (v - S^T k);  S = S + k delta^T;  out = S^T q
// token after token. state: [key_dim][columns], contiguous. With 64 columns of 128 keys it stays in
// the first cache level over all tokens, and is read once and written once from wherever it came.
void DeltaRule(const DeltaTokens& tokens, size_t key_dim, size_t columns, float* state);

}  // namespace kvasir
