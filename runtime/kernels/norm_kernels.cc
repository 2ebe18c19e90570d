#include "runtime/kernels/norm_kernels.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/norm_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

struct Moments {
  float mean;
  float inverse;  // 1 / the deviation from `mean`
};

template <bool kCentered>
HWY_INLINE Moments MomentsOf(const float* x, size_t n, float epsilon) {
  float mean = 0.0f;
  if constexpr (kCentered) {
    mean = SumOver(n, [=](auto d, size_t i) HWY_ATTR { return hn::LoadU(d, x + i); }) /
           static_cast<float>(n);
  }
  const float squares = SumOver(n, [=](auto d, size_t i) HWY_ATTR {
    auto v = hn::LoadU(d, x + i);
    if constexpr (kCentered) v = hn::Sub(v, hn::Set(d, mean));
    return hn::Mul(v, v);
  });
  return {mean, 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon)};
}

// Calls body(value), value(d, i) being the normalised elements from i on.
template <bool kCentered, bool kWeight, bool kBias, class Body>
HWY_INLINE auto WithKind(const float* x, const NormParams& norm, size_t n, const Body& body) {
  const Moments moments = MomentsOf<kCentered>(x, n, norm.epsilon);
  const float* weight = norm.weight;
  const float* bias = norm.bias;
  return body([=](auto d, size_t i) HWY_ATTR {
    auto v = hn::LoadU(d, x + i);
    if constexpr (kCentered) v = hn::Sub(v, hn::Set(d, moments.mean));
    v = hn::Mul(v, hn::Set(d, moments.inverse));
    if constexpr (kBias) {
      v = hn::MulAdd(v, hn::LoadU(d, weight + i), hn::LoadU(d, bias + i));
    } else if constexpr (kWeight) {
      v = hn::Mul(v, hn::LoadU(d, weight + i));
    }
    return v;
  });
}

template <class Body>
HWY_INLINE auto WithNorm(const float* x, const NormParams& norm, size_t n, const Body& body) {
  if (norm.centered) {
    if (norm.weight == nullptr) return WithKind<true, false, false>(x, norm, n, body);
    if (norm.bias == nullptr) return WithKind<true, true, false>(x, norm, n, body);
    return WithKind<true, true, true>(x, norm, n, body);
  }
  if (norm.weight == nullptr) return WithKind<false, false, false>(x, norm, n, body);
  if (norm.bias == nullptr) return WithKind<false, true, false>(x, norm, n, body);
  return WithKind<false, true, true>(x, norm, n, body);
}

template <class To>
HWY_INLINE void NormInto(const float* x, const NormParams& norm, size_t n, To* out) {
  WithNorm(x, norm, n, [=](const auto& value) HWY_ATTR {
    ForEachVector(n, [&](auto d, size_t i) HWY_ATTR { StoreFloats(d, value(d, i), out + i); });
  });
}

void NormF32(const float* x, const NormParams& norm, size_t n, float* out) {
  NormInto(x, norm, n, out);
}
void NormBf16(const float* x, const NormParams& norm, size_t n, bf16* out) {
  NormInto(x, norm, n, out);
}

// The row stays in the first cache level over the passes; a scratch copy would not be cheaper.
float NormU8(const float* x, const NormParams& norm, size_t n, uint8_t* out) {
  return WithNorm(x, norm, n,
                  [=](const auto& value) HWY_ATTR { return QuantizeU8(n, value, out); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(NormF32);
HWY_EXPORT(NormBf16);
HWY_EXPORT(NormU8);

void NormRow(const float* x, const NormParams& norm, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(NormF32)(x, norm, n, out);
}
void NormRow(const float* x, const NormParams& norm, size_t n, bf16* out) {
  HWY_DYNAMIC_DISPATCH(NormBf16)(x, norm, n, out);
}
float NormRow(const float* x, const NormParams& norm, size_t n, uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(NormU8)(x, norm, n, out);
}

}  // namespace kvasir
#endif  // HWY_ONCE
