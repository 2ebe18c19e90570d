#include "runtime/kernels/score_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/score_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

void Cap(float* scores, size_t n, float scale, float cap) {
  const float inner = scale / cap;
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const auto x = hn::Mul(hn::LoadU(d, scores + i), hn::Set(d, inner));
    hn::StoreU(hn::Mul(Tanh(d, x), hn::Set(d, cap)), d, scores + i);
  });
}

void Slope(float* scores, size_t n, float scale, float slope, float first) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const auto distance = hn::Iota(d, first + static_cast<float>(i));
    const auto bias = hn::Mul(distance, hn::Set(d, slope));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, scores + i), hn::Set(d, scale), bias), d, scores + i);
  });
}

void Gate(float* x, const float* gate, size_t n) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), Sigmoid(d, hn::LoadU(d, gate + i))), d, x + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(Cap);
HWY_EXPORT(Slope);
HWY_EXPORT(Gate);

void CapScores(float* scores, size_t n, float scale, float cap) {
  HWY_DYNAMIC_DISPATCH(Cap)(scores, n, scale, cap);
}
void SlopeScores(float* scores, size_t n, float scale, float slope, float first) {
  HWY_DYNAMIC_DISPATCH(Slope)(scores, n, scale, slope, first);
}
void GateRow(float* x, const float* gate, size_t n) { HWY_DYNAMIC_DISPATCH(Gate)(x, gate, n); }

}  // namespace kvasir
#endif  // HWY_ONCE
