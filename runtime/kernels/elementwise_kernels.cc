#include "runtime/kernels/elementwise_kernels.h"

#include <cmath>

#include "runtime/kernels/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/elementwise_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

// q = round(v * inverse) + 128, stored as u8. Saturates, so that rounding at the very maximum
// cannot wrap.
template <class D>
HWY_INLINE void StoreU8(D d, hn::Vec<D> v, float inverse, uint8_t* out) {
  const hn::Rebind<uint8_t, D> d8;
  const auto q = hn::Add(hn::NearestInt(hn::Mul(v, hn::Set(d, inverse))), hn::Set(I32<D>(), 128));
  hn::StoreU(hn::DemoteTo(d8, q), d8, out);
}

HWY_INLINE float InverseRms(const float* x, size_t n, float epsilon) {
  const float sum = SumOver(n, [=](auto d, size_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, x + i);
    return hn::Mul(v, v);
  });
  return 1.0f / std::sqrt(sum / static_cast<float>(n) + epsilon);
}

template <class D>
HWY_INLINE hn::Vec<D> Normed(D d, const float* x, const float* weight, float inverse_rms) {
  return hn::Mul(hn::Mul(hn::LoadU(d, x), hn::Set(d, inverse_rms)), hn::LoadU(d, weight));
}

template <class To>
HWY_INLINE void NormInto(const float* x, const float* weight, size_t n, float epsilon, To* out) {
  const float inverse_rms = InverseRms(x, n, epsilon);
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    StoreFloats(d, Normed(d, x + i, weight + i, inverse_rms), out + i);
  });
}

void RmsNormF32(const float* x, const float* weight, size_t n, float epsilon, float* out) {
  NormInto(x, weight, n, epsilon, out);
}
void RmsNormBf16(const float* x, const float* weight, size_t n, float epsilon, bf16* out) {
  NormInto(x, weight, n, epsilon, out);
}

// The row stays in the first cache level over the three passes; a scratch copy would not be
// cheaper.
float RmsNormU8(const float* x, const float* weight, size_t n, float epsilon, uint8_t* out) {
  const float inverse_rms = InverseRms(x, n, epsilon);
  const float max = MaxOver(n, 0.0f, [=](auto d, size_t i) HWY_ATTR {
    return hn::Abs(Normed(d, x + i, weight + i, inverse_rms));
  });
  const float inverse = max > 0 ? 127.0f / max : 0.0f;
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    StoreU8(d, Normed(d, x + i, weight + i, inverse_rms), inverse, out + i);
  });
  return max / 127.0f;
}

template <class D>
HWY_INLINE hn::Vec<D> SiluMul(D d, const float* gate, const float* up) {
  const auto g = hn::LoadU(d, gate);
  const auto e = Exp2(d, hn::Mul(g, hn::Set(d, -1.44269504f)));  // exp(-g)
  return hn::Mul(hn::Div(g, hn::Add(e, hn::Set(d, 1.0f))), hn::LoadU(d, up));
}

void SiluMulF32(const float* gate, const float* up, size_t n, float* out) {
  ForEachVector(
      n, [=](auto d, size_t i) HWY_ATTR { hn::StoreU(SiluMul(d, gate + i, up + i), d, out + i); });
}

void SiluMulBf16(const float* gate, const float* up, size_t n, bf16* out) {
  ForEachVector(
      n, [=](auto d, size_t i) HWY_ATTR { StoreFloats(d, SiluMul(d, gate + i, up + i), out + i); });
}

float SiluMulU8(float* gate, const float* up, size_t n, uint8_t* out) {
  const float max = MaxOver(n, 0.0f, [=](auto d, size_t i) HWY_ATTR {
    const auto v = SiluMul(d, gate + i, up + i);
    hn::StoreU(v, d, gate + i);
    return hn::Abs(v);
  });
  const float inverse = max > 0 ? 127.0f / max : 0.0f;
  ForEachVector(
      n, [=](auto d, size_t i) HWY_ATTR { StoreU8(d, hn::LoadU(d, gate + i), inverse, out + i); });
  return max / 127.0f;
}

void RopeHeadRow(float* head, const float* cos, const float* sin, size_t half) {
  ForEachVector(half, [=](auto d, size_t i) HWY_ATTR {
    const auto a = hn::LoadU(d, head + i);
    const auto b = hn::LoadU(d, head + half + i);
    const auto c = hn::LoadU(d, cos + i);
    const auto s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), d, head + i);
    hn::StoreU(hn::MulAdd(b, c, hn::Mul(a, s)), d, head + half + i);
  });
}

template <bool kBias, bool kAdd>
HWY_INLINE void Dequantize(const int32_t* sums, const int32_t* column_sums,
                           const float* column_scales, const float* bias, float row_scale, size_t n,
                           float* y) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const I32<decltype(d)> di;
    const auto zero = hn::ShiftLeft<7>(hn::LoadU(di, column_sums + i));
    const auto sum = hn::ConvertTo(d, hn::Sub(hn::LoadU(di, sums + i), zero));
    const auto scale = hn::Mul(hn::LoadU(d, column_scales + i), hn::Set(d, row_scale));
    auto v = hn::Mul(sum, scale);
    if constexpr (kBias) v = hn::Add(v, hn::LoadU(d, bias + i));
    if constexpr (kAdd) v = hn::Add(v, hn::LoadU(d, y + i));
    hn::StoreU(v, d, y + i);
  });
}

void DequantizeSums(const int32_t* sums, const int32_t* column_sums, const float* column_scales,
                    const float* bias, float row_scale, bool add, size_t n, float* y) {
  if (bias != nullptr) {
    if (add) {
      Dequantize<true, true>(sums, column_sums, column_scales, bias, row_scale, n, y);
    } else {
      Dequantize<true, false>(sums, column_sums, column_scales, bias, row_scale, n, y);
    }
  } else if (add) {
    Dequantize<false, true>(sums, column_sums, column_scales, bias, row_scale, n, y);
  } else {
    Dequantize<false, false>(sums, column_sums, column_scales, bias, row_scale, n, y);
  }
}

void AddFloats(const float* x, size_t n, float* y) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
  });
}

void AddScaledFloats(const float* x, float scale, size_t n, float* y) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, x + i), hn::Set(d, scale), hn::LoadU(d, y + i)), d, y + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(RmsNormF32);
HWY_EXPORT(RmsNormBf16);
HWY_EXPORT(RmsNormU8);
HWY_EXPORT(SiluMulF32);
HWY_EXPORT(SiluMulBf16);
HWY_EXPORT(SiluMulU8);
HWY_EXPORT(RopeHeadRow);
HWY_EXPORT(DequantizeSums);
HWY_EXPORT(AddFloats);
HWY_EXPORT(AddScaledFloats);

void RmsNormRow(const float* x, const float* weight, size_t n, float epsilon, float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNormF32)(x, weight, n, epsilon, out);
}
void RmsNormRow(const float* x, const float* weight, size_t n, float epsilon, bf16* out) {
  HWY_DYNAMIC_DISPATCH(RmsNormBf16)(x, weight, n, epsilon, out);
}
float RmsNormRow(const float* x, const float* weight, size_t n, float epsilon, uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(RmsNormU8)(x, weight, n, epsilon, out);
}
void SiluMulRow(const float* gate, const float* up, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(SiluMulF32)(gate, up, n, out);
}
void SiluMulRow(const float* gate, const float* up, size_t n, bf16* out) {
  HWY_DYNAMIC_DISPATCH(SiluMulBf16)(gate, up, n, out);
}
float SiluMulRow(float* gate, const float* up, size_t n, uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(SiluMulU8)(gate, up, n, out);
}
void RopeHead(float* head, const float* cos, const float* sin, size_t half) {
  HWY_DYNAMIC_DISPATCH(RopeHeadRow)(head, cos, sin, half);
}
void DequantizeRow(const int32_t* sums, const int32_t* column_sums, const float* column_scales,
                   const float* bias, float row_scale, bool add, size_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(DequantizeSums)
  (sums, column_sums, column_scales, bias, row_scale, add, n, y);
}
void AddRow(const float* x, size_t n, float* y) { HWY_DYNAMIC_DISPATCH(AddFloats)(x, n, y); }
void AddScaledRow(const float* x, float scale, size_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(AddScaledFloats)(x, scale, n, y);
}

}  // namespace kvasir
#endif  // HWY_ONCE
