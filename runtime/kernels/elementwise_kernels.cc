#include "runtime/kernels/elementwise_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/elementwise_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

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

HWY_EXPORT(RopeHeadRow);
HWY_EXPORT(DequantizeSums);
HWY_EXPORT(AddFloats);
HWY_EXPORT(AddScaledFloats);

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
