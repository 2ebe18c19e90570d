// Vector pieces that several kernels share, compiled once per Highway target (hence the toggled
// guard): loads and stores that convert to and from float, exp2, and loops over a row.
//
// Tails are done with one-lane vectors, never with masks: on the targets before AVX-512 a masked
// load may touch memory past the end.

#if defined(KVASIR_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVASIR_VECTOR_MATH_INL_H_
#undef KVASIR_VECTOR_MATH_INL_H_
#else
#define KVASIR_VECTOR_MATH_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
using I32 = hn::RebindToSigned<D>;
template <class D>
using U32 = hn::RebindToUnsigned<D>;

// Lanes(d) elements from memory as floats; no alignment needed.
template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const bf16* from) {
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(U32<D>(), bits)));
}

template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const f16* from) {
  const hn::Rebind<uint16_t, D> d16;
  const U32<D> du;
  const auto bits = hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from)));
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7fff));
  // Shifted into place, the half's exponent is 112 too small. Multiplying by 2^112 corrects it, and
  // makes halves' subnormals right as well: they are (tiny) normal products of float subnormals'
  // bit patterns.
  const auto scaled = hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)), hn::Set(d, 0x1p112f));
  const auto special = hn::Or(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)),
                              hn::BitCast(d, hn::Set(du, 0x7f800000)));  // infinity and NaN
  // As signed integers: both sides are below 2^15, and the SSE4 target compares signed only.
  const I32<D> di;
  const auto is_special = hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, 0x7bff));
  const auto value = hn::IfThenElse(hn::RebindMask(d, is_special), special, scaled);
  const auto sign = hn::ShiftLeft<16>(hn::AndNot(hn::Set(du, 0x7fff), bits));
  return hn::Or(value, hn::BitCast(d, sign));
}

template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const int8_t* from) {
  const hn::Rebind<int8_t, D> d8;
  return hn::ConvertTo(d, hn::PromoteTo(I32<D>(), hn::LoadU(d8, from)));
}

template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const int32_t* from) {
  return hn::ConvertTo(d, hn::LoadU(I32<D>(), from));
}

template <class D>
HWY_INLINE void StoreFloats(D d, hn::Vec<D> value, float* to) {
  hn::StoreU(value, d, to);
}

// Rounds to nearest even; NaN stays a quiet NaN (as ToBf16).
template <class D>
HWY_INLINE void StoreFloats(D d, hn::Vec<D> value, bf16* to) {
  const U32<D> du;
  const I32<D> di;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  const auto high = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
  const hn::Rebind<uint16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, high)), d16, reinterpret_cast<uint16_t*>(to));
}

// Rounds to nearest even; too large becomes infinity (as ToF16).
template <class D>
HWY_INLINE void StoreFloats(D d, hn::Vec<D> value, f16* to) {
  const U32<D> du;
  const I32<D> di;
  const auto bits = hn::BitCast(du, value);
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000));
  const auto magnitude = hn::BitCast(di, hn::And(bits, hn::Set(du, 0x7fffffff)));
  // Normal halves: round the mantissa to 10 bits, then move the exponent's bias.
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(di, 1));
  const auto rounded = hn::Add(magnitude, hn::Add(odd, hn::Set(di, 0x0fff)));
  const auto normal = hn::ShiftRight<13>(hn::Sub(rounded, hn::Set(di, 0x38000000)));
  // Subnormal halves: adding 0.5 makes the FPU round to a multiple of 2^-24.
  const auto shifted = hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5f));
  const auto subnormal = hn::Sub(hn::BitCast(di, shifted), hn::Set(di, 0x3f000000));
  auto half = hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 0x38800000)), subnormal, normal);
  half = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x477fefff)), hn::Set(di, 0x7c00), half);
  half = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x7f800000)), hn::Set(di, 0x7e00), half);
  half = hn::Or(half, hn::BitCast(di, sign));
  const hn::Rebind<uint16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, half), d16, reinterpret_cast<uint16_t*>(to));
}

// 2^x. Relative error below 3e-7 for x in [-126, 127.5]; x outside is clamped to that range, so
// that -infinity gives 2^-126, not 0. The polynomial is a weighted least-squares fit on [-0.5, 0.5]
// with the constant pinned to 1 (so that 2^0 is exactly 1); its own error is 9.2e-8.
template <class D>
HWY_INLINE hn::Vec<D> Exp2(D d, hn::Vec<D> x) {
  const I32<D> di;
  x = hn::Min(hn::Max(x, hn::Set(d, -126.0f)), hn::Set(d, 127.49f));
  const auto whole = hn::NearestInt(x);
  const auto f = hn::Sub(x, hn::ConvertTo(d, whole));
  auto p = hn::MulAdd(f, hn::Set(d, 0.0013264723883791517f), hn::Set(d, 0.009671512869460535f));
  p = hn::MulAdd(f, p, hn::Set(d, 0.05550733754276001f));
  p = hn::MulAdd(f, p, hn::Set(d, 0.24022242080365352f));
  p = hn::MulAdd(f, p, hn::Set(d, 0.6931469775914774f));
  p = hn::MulAdd(f, p, hn::Set(d, 1.0f));
  // p is in [0.7, 1.42]: adding to its exponent field multiplies by 2^whole.
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(whole)));
}

// 1 / (1 + exp(-x)).
template <class D>
HWY_INLINE hn::Vec<D> Sigmoid(D d, hn::Vec<D> x) {
  const auto e = Exp2(d, hn::Mul(x, hn::Set(d, -1.44269504f)));
  return hn::Div(hn::Set(d, 1.0f), hn::Add(e, hn::Set(d, 1.0f)));
}

// tanh(x): through exp(2x), and where that would cancel, below 0.3, by its series (whose next term
// is 5e-8 of it there).
template <class D>
HWY_INLINE hn::Vec<D> Tanh(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0f);
  const auto e = Exp2(d, hn::Mul(x, hn::Set(d, 2.88539008f)));
  const auto far = hn::Div(hn::Sub(e, one), hn::Add(e, one));
  const auto x2 = hn::Mul(x, x);
  auto p = hn::MulAdd(x2, hn::Set(d, 62.0f / 2835.0f), hn::Set(d, -17.0f / 315.0f));
  p = hn::MulAdd(x2, p, hn::Set(d, 2.0f / 15.0f));
  p = hn::MulAdd(x2, p, hn::Set(d, -1.0f / 3.0f));
  const auto near = hn::MulAdd(hn::Mul(x, x2), p, x);
  return hn::IfThenElse(hn::Lt(hn::Abs(x), hn::Set(d, 0.3f)), near, far);
}

// Calls body(d, i) for i = 0, Lanes(d), ...: whole vectors first, then single lanes for the rest of
// n.
template <class Body>
HWY_INLINE void ForEachVector(size_t n, const Body& body) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  const hn::CappedTag<float, 1> one;
  for (; i < n; ++i) body(one, i);
}

// Sum over [0, n) of value(d, i), where value gives a vector. Four running sums hide the adder's
// latency.
template <class Value>
HWY_INLINE float SumOver(size_t n, const Value& value) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, value(d, i));
    s1 = hn::Add(s1, value(d, i + lanes));
    s2 = hn::Add(s2, value(d, i + 2 * lanes));
    s3 = hn::Add(s3, value(d, i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::Add(s0, value(d, i));
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  const hn::CappedTag<float, 1> one;
  for (; i < n; ++i) sum += hn::GetLane(value(one, i));
  return sum;
}

// Maximum over [0, n) of value(d, i), and of `start`.
template <class Value>
HWY_INLINE float MaxOver(size_t n, float start, const Value& value) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto m0 = hn::Set(d, start), m1 = m0;
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    m0 = hn::Max(m0, value(d, i));
    m1 = hn::Max(m1, value(d, i + lanes));
  }
  for (; i + lanes <= n; i += lanes) m0 = hn::Max(m0, value(d, i));
  float max = hn::GetLane(hn::MaxOfLanes(d, hn::Max(m0, m1)));
  const hn::CappedTag<float, 1> one;
  for (; i < n; ++i) {
    const float v = hn::GetLane(value(one, i));
    if (v > max) max = v;
  }
  return max;
}

// q = round(v * inverse) + 128, stored as u8. Saturates, so that rounding at the very maximum
// cannot wrap.
template <class D>
HWY_INLINE void StoreU8(D d, hn::Vec<D> v, float inverse, uint8_t* out) {
  const hn::Rebind<uint8_t, D> d8;
  const auto q = hn::Add(hn::NearestInt(hn::Mul(v, hn::Set(d, inverse))), hn::Set(I32<D>(), 128));
  hn::StoreU(hn::DemoteTo(d8, q), d8, out);
}

// out[i] = value(d, i) as u8 with zero point 128; returns the scale. Computes each value twice.
template <class Value>
HWY_INLINE float QuantizeU8(size_t n, const Value& value, uint8_t* out) {
  const float max =
      MaxOver(n, 0.0f, [&](auto d, size_t i) HWY_ATTR { return hn::Abs(value(d, i)); });
  const float inverse = max > 0 ? 127.0f / max : 0.0f;
  ForEachVector(n, [&](auto d, size_t i) HWY_ATTR { StoreU8(d, value(d, i), inverse, out + i); });
  return max / 127.0f;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#endif  // include guard, toggled per target
