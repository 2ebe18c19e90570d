#include "runtime/kernels/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/convert.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

template <class From, class To>
HWY_INLINE void ConvertRow(const From* in, size_t n, To* out) {
  ForEachVector(n,
                [=](auto d, size_t i) HWY_ATTR { StoreFloats(d, LoadFloats(d, in + i), out + i); });
}

void Bf16ToFloats(const bf16* in, size_t n, float* out) { ConvertRow(in, n, out); }
void F16ToFloats(const f16* in, size_t n, float* out) { ConvertRow(in, n, out); }
void FloatsToBf16(const float* in, size_t n, bf16* out) { ConvertRow(in, n, out); }
void FloatsToF16(const float* in, size_t n, f16* out) { ConvertRow(in, n, out); }

template <class T>
HWY_INLINE void ScaleRow(const T* in, size_t n, float scale, float* out) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    StoreFloats(d, hn::Mul(LoadFloats(d, in + i), hn::Set(d, scale)), out + i);
  });
}

void Int8ToFloats(const int8_t* in, size_t n, float scale, float* out) {
  ScaleRow(in, n, scale, out);
}
void Int32ToFloats(const int32_t* in, size_t n, float scale, float* out) {
  ScaleRow(in, n, scale, out);
}

float MaxAbsRow(const float* in, size_t n) {
  return MaxOver(n, 0.0f, [=](auto d, size_t i) HWY_ATTR { return hn::Abs(hn::LoadU(d, in + i)); });
}

float QuantizeS8Row(const float* in, size_t n, int limit, int8_t* out) {
  const float max = MaxAbsRow(in, n);
  const float inverse = max > 0 ? limit / max : 0.0f;
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const hn::Rebind<int8_t, decltype(d)> d8;
    const auto q = hn::NearestInt(hn::Mul(hn::LoadU(d, in + i), hn::Set(d, inverse)));
    hn::StoreU(hn::DemoteTo(d8, q), d8, out + i);
  });
  return max / limit;
}

float QuantizeU8Row(const float* in, size_t n, uint8_t* out) {
  const float max = MaxAbsRow(in, n);
  const float inverse = max > 0 ? 127.0f / max : 0.0f;
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const hn::Rebind<uint8_t, decltype(d)> d8;
    const I32<decltype(d)> di;
    const auto q = hn::NearestInt(hn::Mul(hn::LoadU(d, in + i), hn::Set(d, inverse)));
    hn::StoreU(hn::DemoteTo(d8, hn::Add(q, hn::Set(di, 128))), d8, out + i);
  });
  return max / 127.0f;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(Bf16ToFloats);
HWY_EXPORT(F16ToFloats);
HWY_EXPORT(Int8ToFloats);
HWY_EXPORT(Int32ToFloats);
HWY_EXPORT(FloatsToBf16);
HWY_EXPORT(FloatsToF16);
HWY_EXPORT(MaxAbsRow);
HWY_EXPORT(QuantizeS8Row);
HWY_EXPORT(QuantizeU8Row);

void ToFloats(const bf16* in, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(Bf16ToFloats)(in, n, out);
}
void ToFloats(const f16* in, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(F16ToFloats)(in, n, out);
}
void ToFloats(const int8_t* in, size_t n, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(Int8ToFloats)(in, n, scale, out);
}
void ToFloats(const int32_t* in, size_t n, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(Int32ToFloats)(in, n, scale, out);
}
void FromFloats(const float* in, size_t n, bf16* out) {
  HWY_DYNAMIC_DISPATCH(FloatsToBf16)(in, n, out);
}
void FromFloats(const float* in, size_t n, f16* out) {
  HWY_DYNAMIC_DISPATCH(FloatsToF16)(in, n, out);
}
float MaxAbs(const float* in, size_t n) { return HWY_DYNAMIC_DISPATCH(MaxAbsRow)(in, n); }
float QuantizeS8(const float* in, size_t n, int limit, int8_t* out) {
  return HWY_DYNAMIC_DISPATCH(QuantizeS8Row)(in, n, limit, out);
}
float QuantizeU8(const float* in, size_t n, uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(QuantizeU8Row)(in, n, out);
}

}  // namespace kvasir
#endif  // HWY_ONCE
