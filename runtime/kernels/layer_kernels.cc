#include "runtime/kernels/layer_kernels.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/layer_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

// x * sigmoid(alpha * x)
template <class D>
HWY_INLINE hn::Vec<D> Silu(D d, hn::Vec<D> x, float alpha = 1.0f) {
  const auto e = Exp2(d, hn::Mul(x, hn::Set(d, -1.44269504f * alpha)));  // exp(-alpha x)
  return hn::Div(x, hn::Add(e, hn::Set(d, 1.0f)));
}

template <bool kSilu>
HWY_INLINE void Convolve(const float* const* window, size_t kernel, const float* weight,
                         size_t stride, const float* bias, size_t n, float* out) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    auto sum = bias != nullptr ? hn::LoadU(d, bias + i) : hn::Zero(d);
    for (size_t j = 0; j < kernel; ++j) {
      sum = hn::MulAdd(hn::LoadU(d, weight + j * stride + i), hn::LoadU(d, window[j] + i), sum);
    }
    if constexpr (kSilu) sum = Silu(d, sum);
    hn::StoreU(sum, d, out + i);
  });
}

void ConvolveFloats(const float* const* window, size_t kernel, const float* weight, size_t stride,
                    const float* bias, bool silu, size_t n, float* out) {
  if (silu) {
    Convolve<true>(window, kernel, weight, stride, bias, n, out);
  } else {
    Convolve<false>(window, kernel, weight, stride, bias, n, out);
  }
}

float DotFloats(const float* a, const float* b, size_t n) {
  return SumOver(n, [=](auto d, size_t i)
                        HWY_ATTR { return hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)); });
}

void UnitFloats(float* x, float scale, float epsilon, size_t n) {
  const float factor = scale / std::sqrt(DotFloats(x, x, n) + epsilon);
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, x + i);
  });
}

void GatedNorm(const float* x, const float* weight, const float* gate, float epsilon, size_t n,
               float* out) {
  const float inverse_rms = 1.0f / std::sqrt(DotFloats(x, x, n) / static_cast<float>(n) + epsilon);
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const auto normed =
        hn::Mul(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse_rms)), hn::LoadU(d, weight + i));
    hn::StoreU(hn::Mul(normed, Silu(d, hn::LoadU(d, gate + i))), d, out + i);
  });
}

void MulFloats(const float* x, const float* y, size_t n, float* out) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, out + i);
  });
}

void ClampedGate(const float* gate, const float* up, float clamp, float alpha, size_t n,
                 float* out) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const auto most = hn::Set(d, clamp);
    const auto g = hn::Min(hn::LoadU(d, gate + i), most);
    const auto u = hn::Max(hn::Min(hn::LoadU(d, up + i), most), hn::Neg(most));
    hn::StoreU(hn::Mul(hn::Add(u, hn::Set(d, 1.0f)), Silu(d, g, alpha)), d, out + i);
  });
}

void ScaleFloats(float scale, size_t n, float* x) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale)), d, x + i);
  });
}

// The variance around the mean in a second pass: the difference of the squares would cancel.
void KeepOutliersFloats(float deviations, size_t n, float* x) {
  const float mean = SumOver(n, [=](auto d, size_t i) HWY_ATTR { return hn::LoadU(d, x + i); }) /
                     static_cast<float>(n);
  const float squares = SumOver(n, [=](auto d, size_t i) HWY_ATTR {
    const auto off = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, mean));
    return hn::Mul(off, off);
  });
  const float cutoff = mean + deviations * std::sqrt(squares / static_cast<float>(n));
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const auto over = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, cutoff));
    hn::StoreU(hn::Max(over, hn::Zero(d)), d, x + i);
  });
}

// kVectors vectors of columns from the first on. S^T k and S^T q come from one pass over S before
// its update: out = decay * S^T q + (q . k) * delta.
template <size_t kVectors, class D>
HWY_INLINE void DeltaStep(D d, const float* HWY_RESTRICT q, const float* HWY_RESTRICT k,
                          const float* HWY_RESTRICT v, float decay, float beta, float qk,
                          size_t key_dim, size_t stride, float* HWY_RESTRICT state,
                          float* HWY_RESTRICT out) {
  const size_t lanes = hn::Lanes(d);
  hn::Vec<D> sk[kVectors], sq[kVectors], delta[kVectors];
  for (size_t n = 0; n < kVectors; ++n) sk[n] = sq[n] = hn::Zero(d);
  for (size_t i = 0; i < key_dim; ++i) {
    const auto ki = hn::Set(d, k[i]);
    const auto qi = hn::Set(d, q[i]);
    for (size_t n = 0; n < kVectors; ++n) {
      const auto s = hn::LoadU(d, state + i * stride + n * lanes);
      sk[n] = hn::MulAdd(s, ki, sk[n]);
      sq[n] = hn::MulAdd(s, qi, sq[n]);
    }
  }
  const auto g = hn::Set(d, decay);
  for (size_t n = 0; n < kVectors; ++n) {
    const auto error = hn::NegMulAdd(g, sk[n], hn::LoadU(d, v + n * lanes));
    delta[n] = hn::Mul(error, hn::Set(d, beta));
    const auto o = hn::MulAdd(delta[n], hn::Set(d, qk), hn::Mul(g, sq[n]));
    hn::StoreU(o, d, out + n * lanes);
  }
  for (size_t i = 0; i < key_dim; ++i) {
    const auto ki = hn::Set(d, k[i]);
    for (size_t n = 0; n < kVectors; ++n) {
      float* at = state + i * stride + n * lanes;
      hn::StoreU(hn::MulAdd(ki, delta[n], hn::Mul(g, hn::LoadU(d, at))), d, at);
    }
  }
}

template <size_t kVectors, class D>
HWY_INLINE void DeltaColumns(D d, const DeltaTokens& tokens, size_t key_dim, size_t columns,
                             size_t first, float* state) {
  for (size_t t = 0; t < tokens.count; ++t) {
    const size_t scalar = t * tokens.scalar_stride;
    DeltaStep<kVectors>(d, tokens.q + t * tokens.key_stride, tokens.k + t * tokens.key_stride,
                        tokens.v + t * tokens.value_stride + first, tokens.decay[scalar],
                        tokens.beta[scalar], tokens.qk[scalar], key_dim, columns, state + first,
                        tokens.out + t * tokens.out_stride + first);
  }
}

void DeltaRuleAll(const DeltaTokens& tokens, size_t key_dim, size_t columns, float* state) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t first = 0;
  // Eight sums in flight hide the latency of the additions.
  for (; first + 4 * lanes <= columns; first += 4 * lanes) {
    DeltaColumns<4>(d, tokens, key_dim, columns, first, state);
  }
  for (; first + lanes <= columns; first += lanes) {
    DeltaColumns<1>(d, tokens, key_dim, columns, first, state);
  }
  const hn::CappedTag<float, 1> one;
  for (; first < columns; ++first) DeltaColumns<1>(one, tokens, key_dim, columns, first, state);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(ConvolveFloats);
HWY_EXPORT(DotFloats);
HWY_EXPORT(UnitFloats);
HWY_EXPORT(GatedNorm);
HWY_EXPORT(MulFloats);
HWY_EXPORT(ClampedGate);
HWY_EXPORT(ScaleFloats);
HWY_EXPORT(KeepOutliersFloats);
HWY_EXPORT(DeltaRuleAll);

void ConvolveRow(const float* const* window, size_t kernel, const float* weight, size_t stride,
                 const float* bias, bool silu, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(ConvolveFloats)(window, kernel, weight, stride, bias, silu, n, out);
}
float DotRow(const float* a, const float* b, size_t n) {
  return HWY_DYNAMIC_DISPATCH(DotFloats)(a, b, n);
}
void UnitRow(float* x, float scale, float epsilon, size_t n) {
  HWY_DYNAMIC_DISPATCH(UnitFloats)(x, scale, epsilon, n);
}
void GatedNormRow(const float* x, const float* weight, const float* gate, float epsilon, size_t n,
                  float* out) {
  HWY_DYNAMIC_DISPATCH(GatedNorm)(x, weight, gate, epsilon, n, out);
}
void MulRow(const float* x, const float* y, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(MulFloats)(x, y, n, out);
}
void ClampedGateRow(const float* gate, const float* up, float clamp, float alpha, size_t n,
                    float* out) {
  HWY_DYNAMIC_DISPATCH(ClampedGate)(gate, up, clamp, alpha, n, out);
}
void ScaleRow(float scale, size_t n, float* x) { HWY_DYNAMIC_DISPATCH(ScaleFloats)(scale, n, x); }
void KeepOutliersRow(float deviations, size_t n, float* x) {
  HWY_DYNAMIC_DISPATCH(KeepOutliersFloats)(deviations, n, x);
}
void DeltaRule(const DeltaTokens& tokens, size_t key_dim, size_t columns, float* state) {
  HWY_DYNAMIC_DISPATCH(DeltaRuleAll)(tokens, key_dim, columns, state);
}

}  // namespace kvasir
#endif  // HWY_ONCE
