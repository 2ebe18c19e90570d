#include <cstddef>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/pick_row_kernels.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/pick_kernels.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

// Heads whose sums are kept in registers at once. More would spill, fewer would read the stored
// rows again and again; AVX-512 and NEON have 32 registers, the others 16.
constexpr size_t kHeads = 4;

// One line ahead per line read: a burst of requests would only fill the core's table of outstanding
// misses.
template <class T>
HWY_INLINE void PrefetchBytes(const T* row, size_t begin, size_t end) {
  constexpr size_t kLine = 64 / sizeof(T);
  for (size_t i = begin; i < end; i += kLine) hwy::Prefetch(row + i);
}

template <size_t kNum, class T>
HWY_INLINE void ScoreRowsOf(const T* const* rows, size_t count, size_t dim,
                            const float* HWY_RESTRICT q, bool prefetch, float* scores,
                            size_t stride) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const hn::CappedTag<float, 1> one;
  for (size_t t = 0; t < count; ++t) {
    const T* HWY_RESTRICT row = rows[t];
    if (prefetch) PrefetchBytes(rows[t + kRowsAhead], 0, dim);
    hn::Vec<decltype(d)> even[kNum], odd[kNum];  // two sums each hide the latency of adding
    for (size_t h = 0; h < kNum; ++h) even[h] = odd[h] = hn::Zero(d);
    size_t i = 0;
    for (; i + 2 * lanes <= dim; i += 2 * lanes) {
      const auto k0 = LoadFloats(d, row + i), k1 = LoadFloats(d, row + i + lanes);
      for (size_t h = 0; h < kNum; ++h) {
        even[h] = hn::MulAdd(hn::LoadU(d, q + h * dim + i), k0, even[h]);
        odd[h] = hn::MulAdd(hn::LoadU(d, q + h * dim + i + lanes), k1, odd[h]);
      }
    }
    for (; i + lanes <= dim; i += lanes) {
      const auto k = LoadFloats(d, row + i);
      for (size_t h = 0; h < kNum; ++h)
        even[h] = hn::MulAdd(hn::LoadU(d, q + h * dim + i), k, even[h]);
    }
    float sums[kNum];
    for (size_t h = 0; h < kNum; ++h)
      sums[h] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even[h], odd[h])));
    for (; i < dim; ++i) {
      const float k = hn::GetLane(LoadFloats(one, row + i));
      for (size_t h = 0; h < kNum; ++h) sums[h] += q[h * dim + i] * k;
    }
    for (size_t h = 0; h < kNum; ++h) scores[h * stride + t] = sums[h];
  }
}

template <class T>
HWY_INLINE void ScoreRowsT(const T* const* rows, size_t count, size_t dim, const float* q,
                           size_t heads, float* scores, size_t stride) {
  size_t h = 0;
  for (; h + kHeads <= heads; h += kHeads) {
    ScoreRowsOf<kHeads>(rows, count, dim, q + h * dim, h == 0, scores + h * stride, stride);
  }
  if (h + 2 <= heads) {
    ScoreRowsOf<2>(rows, count, dim, q + h * dim, h == 0, scores + h * stride, stride);
    h += 2;
  }
  if (h < heads) ScoreRowsOf<1>(rows, count, dim, q + h * dim, h == 0, scores + h * stride, stride);
}

// Columns [begin, begin + kVectors vectors) of the mix, for kNum heads.
template <size_t kNum, size_t kVectors, class D, class T>
HWY_INLINE void MixColumns(D d, const T* const* rows, size_t count, size_t begin,
                           const float* HWY_RESTRICT weights, size_t weights_stride, bool prefetch,
                           float* mix, size_t mix_stride) {
  const size_t lanes = hn::Lanes(d);
  hn::Vec<D> sums[kNum][kVectors];
  for (size_t h = 0; h < kNum; ++h) {
    for (size_t v = 0; v < kVectors; ++v) sums[h][v] = hn::Zero(d);
  }
  for (size_t t = 0; t < count; ++t) {
    const T* HWY_RESTRICT row = rows[t] + begin;
    if (prefetch) PrefetchBytes(rows[t + kRowsAhead] + begin, 0, kVectors * lanes);
    hn::Vec<D> value[kVectors];
    for (size_t v = 0; v < kVectors; ++v) value[v] = LoadFloats(d, row + v * lanes);
    for (size_t h = 0; h < kNum; ++h) {
      const auto weight = hn::Set(d, weights[h * weights_stride + t]);
      for (size_t v = 0; v < kVectors; ++v) sums[h][v] = hn::MulAdd(weight, value[v], sums[h][v]);
    }
  }
  for (size_t h = 0; h < kNum; ++h) {
    for (size_t v = 0; v < kVectors; ++v)
      hn::StoreU(sums[h][v], d, mix + h * mix_stride + begin + v * lanes);
  }
}

template <size_t kNum, class T>
HWY_INLINE void MixRowsOf(const T* const* rows, size_t count, size_t dim, const float* weights,
                          size_t weights_stride, bool prefetch, float* mix, size_t mix_stride) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  // Sums fill half of 32 registers, or of 16.
  constexpr size_t kVectors = (HWY_CAP_GE512 ? 16 : 8) / kNum;
  size_t i = 0;
  for (; i + kVectors * lanes <= dim; i += kVectors * lanes) {
    MixColumns<kNum, kVectors>(d, rows, count, i, weights, weights_stride, prefetch, mix,
                               mix_stride);
  }
  for (; i + 4 * lanes <= dim; i += 4 * lanes) {
    MixColumns<kNum, 4>(d, rows, count, i, weights, weights_stride, prefetch, mix, mix_stride);
  }
  for (; i + lanes <= dim; i += lanes) {
    MixColumns<kNum, 1>(d, rows, count, i, weights, weights_stride, prefetch, mix, mix_stride);
  }
  const hn::CappedTag<float, 1> one;
  for (; i < dim; ++i) {
    MixColumns<kNum, 1>(one, rows, count, i, weights, weights_stride, prefetch, mix, mix_stride);
  }
}

template <class T>
HWY_INLINE void MixRowsT(const T* const* rows, size_t count, size_t dim, const float* weights,
                         size_t weights_stride, size_t heads, float* mix, size_t mix_stride) {
  size_t h = 0;
  for (; h + kHeads <= heads; h += kHeads) {
    MixRowsOf<kHeads>(rows, count, dim, weights + h * weights_stride, weights_stride, h == 0,
                      mix + h * mix_stride, mix_stride);
  }
  if (h + 2 <= heads) {
    MixRowsOf<2>(rows, count, dim, weights + h * weights_stride, weights_stride, h == 0,
                 mix + h * mix_stride, mix_stride);
    h += 2;
  }
  if (h < heads) {
    MixRowsOf<1>(rows, count, dim, weights + h * weights_stride, weights_stride, h == 0,
                 mix + h * mix_stride, mix_stride);
  }
}

template <class T>
HWY_INLINE void AddRowsT(const T* rows, const float* scales, size_t count, size_t dim, float* sum) {
  for (size_t t = 0; t < count; ++t) {
    const T* row = rows + t * dim;
    const float scale = scales == nullptr ? 1.0f : scales[t];
    ForEachVector(dim, [=](auto d, size_t i) HWY_ATTR {
      const auto x = hn::Mul(LoadFloats(d, row + i), hn::Set(d, scale));
      hn::StoreU(hn::Add(hn::LoadU(d, sum + i), x), d, sum + i);
    });
  }
}

// One exported name per stored type: Highway's dispatch tables take no templates.
#define KVASIR_ROW_KERNELS(T, Suffix)                                                              \
  void ScoreRows##Suffix(const T* const* rows, size_t count, size_t dim, const float* q,           \
                         size_t heads, float* scores, size_t stride) {                             \
    ScoreRowsT(rows, count, dim, q, heads, scores, stride);                                        \
  }                                                                                                \
  void MixRows##Suffix(const T* const* rows, size_t count, size_t dim, const float* weights,       \
                       size_t weights_stride, size_t heads, float* mix, size_t mix_stride) {       \
    MixRowsT(rows, count, dim, weights, weights_stride, heads, mix, mix_stride);                   \
  }                                                                                                \
  void AddRows##Suffix(const T* rows, const float* scales, size_t count, size_t dim, float* sum) { \
    AddRowsT(rows, scales, count, dim, sum);                                                       \
  }
KVASIR_ROW_KERNELS(float, F32)
KVASIR_ROW_KERNELS(bf16, Bf16)
KVASIR_ROW_KERNELS(f16, F16)
KVASIR_ROW_KERNELS(int8_t, S8)
#undef KVASIR_ROW_KERNELS

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

#define KVASIR_DISPATCH_ROW_KERNELS(T, Suffix)                                                    \
  HWY_EXPORT(AddRows##Suffix);                                                                    \
  HWY_EXPORT(ScoreRows##Suffix);                                                                  \
  HWY_EXPORT(MixRows##Suffix);                                                                    \
  template <>                                                                                     \
  void AddRows<T>(const T* rows, const float* scales, size_t count, size_t dim, float* sum) {     \
    HWY_DYNAMIC_DISPATCH(AddRows##Suffix)(rows, scales, count, dim, sum);                         \
  }                                                                                               \
  template <>                                                                                     \
  void ScoreRows<T>(const T* const* rows, size_t count, size_t dim, const float* q, size_t heads, \
                    float* scores, size_t stride) {                                               \
    HWY_DYNAMIC_DISPATCH(ScoreRows##Suffix)(rows, count, dim, q, heads, scores, stride);          \
  }                                                                                               \
  template <>                                                                                     \
  void MixRows<T>(const T* const* rows, size_t count, size_t dim, const float* weights,           \
                  size_t weights_stride, size_t heads, float* mix, size_t mix_stride) {           \
    HWY_DYNAMIC_DISPATCH(MixRows##Suffix)                                                         \
    (rows, count, dim, weights, weights_stride, heads, mix, mix_stride);                          \
  }
KVASIR_DISPATCH_ROW_KERNELS(float, F32)
KVASIR_DISPATCH_ROW_KERNELS(bf16, Bf16)
KVASIR_DISPATCH_ROW_KERNELS(f16, F16)
KVASIR_DISPATCH_ROW_KERNELS(int8_t, S8)
#undef KVASIR_DISPATCH_ROW_KERNELS

}  // namespace kvasir
#endif  // HWY_ONCE
