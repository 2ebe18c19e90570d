#include "runtime/kernels/activation_kernels.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/activation_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

struct Silu {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    const auto e = Exp2(d, hn::Mul(x, hn::Set(d, -1.44269504f)));  // exp(-x)
    return hn::Div(x, hn::Add(e, hn::Set(d, 1.0f)));
  }
};

// erf by Abramowitz and Stegun 7.1.26: 1 - erf(a) = P(t) exp(-a^2), t = 1 / (1 + 0.3275911 a), for
// a >= 0 within 1.5e-7; taking the tail itself for x < 0 loses nothing to cancellation.
struct Gelu {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    const auto one = hn::Set(d, 1.0f);
    const auto a = hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678f));
    const auto t = hn::Div(one, hn::MulAdd(a, hn::Set(d, 0.3275911f), one));
    auto p = hn::MulAdd(t, hn::Set(d, 1.061405429f), hn::Set(d, -1.453152027f));
    p = hn::MulAdd(t, p, hn::Set(d, 1.421413741f));
    p = hn::MulAdd(t, p, hn::Set(d, -0.284496736f));
    p = hn::MulAdd(t, p, hn::Set(d, 0.254829592f));
    const auto power = Exp2(d, hn::Mul(hn::Mul(a, a), hn::Set(d, -1.44269504f)));
    const auto half_tail = hn::Mul(hn::Mul(hn::Mul(p, t), power), hn::Set(d, 0.5f));
    const auto share = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), half_tail, hn::Sub(one, half_tail));
    return hn::Mul(x, share);
  }
};

struct GeluTanh {  // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u))
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    const auto x2 = hn::Mul(x, x);
    const auto inner = hn::MulAdd(x2, hn::Set(d, 0.044715f), hn::Set(d, 1.0f));
    // 2 sqrt(2 / pi) log2 e
    const auto u = hn::Mul(hn::Mul(x, inner), hn::Set(d, -2.30220818f));
    return hn::Div(x, hn::Add(Exp2(d, u), hn::Set(d, 1.0f)));
  }
};

struct Relu {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    return hn::Max(x, hn::Zero(d));
  }
};

struct Relu2 {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    const auto positive = hn::Max(x, hn::Zero(d));
    return hn::Mul(positive, positive);
  }
};

// Calls body(value), value(d, i) being the activated elements from i on.
template <class Function, class Body>
HWY_INLINE void WithFunction(const float* x, const float* up, const Body& body) {
  if (up == nullptr) {
    body([=](auto d, size_t i) HWY_ATTR { return Function()(d, hn::LoadU(d, x + i)); });
  } else {
    body([=](auto d, size_t i) HWY_ATTR {
      return hn::Mul(Function()(d, hn::LoadU(d, x + i)), hn::LoadU(d, up + i));
    });
  }
}

template <class Body>
HWY_INLINE void WithActivation(Activation activation, const float* x, const float* up,
                               const Body& body) {
  switch (activation) {
    case Activation::kSilu:
      return WithFunction<Silu>(x, up, body);
    case Activation::kGelu:
      return WithFunction<Gelu>(x, up, body);
    case Activation::kGeluTanh:
      return WithFunction<GeluTanh>(x, up, body);
    case Activation::kRelu:
      return WithFunction<Relu>(x, up, body);
    case Activation::kRelu2:
      return WithFunction<Relu2>(x, up, body);
  }
}

template <class To>
HWY_INLINE void ActivateInto(Activation activation, const float* x, const float* up, size_t n,
                             To* out) {
  WithActivation(activation, x, up, [=](const auto& value) HWY_ATTR {
    ForEachVector(n, [&](auto d, size_t i) HWY_ATTR { StoreFloats(d, value(d, i), out + i); });
  });
}

void ActivateF32(Activation activation, const float* x, const float* up, size_t n, float* out) {
  ActivateInto(activation, x, up, n, out);
}
void ActivateBf16(Activation activation, const float* x, const float* up, size_t n, bf16* out) {
  ActivateInto(activation, x, up, n, out);
}

float ActivateU8(Activation activation, float* x, const float* up, size_t n, uint8_t* out) {
  ActivateInto(activation, x, up, n, x);
  return QuantizeU8(
      n, [=](auto d, size_t i) HWY_ATTR { return hn::LoadU(d, x + i); }, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(ActivateF32);
HWY_EXPORT(ActivateBf16);
HWY_EXPORT(ActivateU8);

void ActivateRow(Activation activation, const float* x, const float* up, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(ActivateF32)(activation, x, up, n, out);
}
void ActivateRow(Activation activation, const float* x, const float* up, size_t n, bf16* out) {
  HWY_DYNAMIC_DISPATCH(ActivateBf16)(activation, x, up, n, out);
}
float ActivateRow(Activation activation, float* x, const float* up, size_t n, uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(ActivateU8)(activation, x, up, n, out);
}

}  // namespace kvasir
#endif  // HWY_ONCE
