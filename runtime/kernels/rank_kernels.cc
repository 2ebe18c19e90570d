#include <cstddef>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/rank_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/pick_kernels.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

// Heads whose sums are kept in registers at once. More would spill, fewer would read the columns
// again and again; AVX-512 and NEON have 32 registers, the others 16.
constexpr size_t kHeads = 4;

// kGroups groups of 16 positions for kNum heads: one column element is loaded once for all of them.
template <size_t kNum, size_t kGroups, class T>
HWY_INLINE void ScoreGroups(const T* HWY_RESTRICT columns, size_t count,
                            const int32_t* HWY_RESTRICT dims, size_t rank,
                            const float* HWY_RESTRICT q, size_t q_stride,
                            float* HWY_RESTRICT scores, size_t stride) {
  const hn::CappedTag<float, 16> d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kVectors = kGroups * 16 / HWY_MIN(HWY_LANES(float), 16);
  hn::Vec<decltype(d)> sums[kNum][kVectors];
  for (size_t h = 0; h < kNum; ++h) {
    for (size_t v = 0; v < kVectors; ++v) sums[h][v] = hn::Zero(d);
  }
  for (size_t i = 0; i < rank; ++i) {
    const size_t offset = static_cast<size_t>(dims[i]) * count;
    hn::Vec<decltype(d)> k[kVectors];
    for (size_t v = 0; v < kVectors; ++v) k[v] = LoadFloats(d, columns + offset + v * lanes);
    for (size_t h = 0; h < kNum; ++h) {
      const auto factor = hn::Set(d, q[h * q_stride + i]);
      for (size_t v = 0; v < kVectors; ++v) sums[h][v] = hn::MulAdd(factor, k[v], sums[h][v]);
    }
  }
  for (size_t h = 0; h < kNum; ++h) {
    for (size_t v = 0; v < kVectors; ++v)
      hn::StoreU(sums[h][v], d, scores + h * stride + v * lanes);
  }
}

template <size_t kNum, class T>
HWY_INLINE void ScoreHeads(const T* columns, size_t count, const int32_t* dims, size_t rank,
                           const float* q, size_t q_stride, float* scores, size_t stride) {
  constexpr size_t kGroups = 2;  // 32 positions: a line of 16-bit elements
  size_t t = 0;
  for (; t + kGroups * 16 <= count; t += kGroups * 16) {
    ScoreGroups<kNum, kGroups>(columns + t, count, dims, rank, q, q_stride, scores + t, stride);
  }
  for (; t < count; t += 16) {
    ScoreGroups<kNum, 1>(columns + t, count, dims, rank, q, q_stride, scores + t, stride);
  }
}

template <class T>
HWY_INLINE void ScoreColumnsT(const T* columns, size_t count, const int32_t* dims, size_t rank,
                              const float* q, size_t q_stride, size_t heads, float* scores,
                              size_t stride) {
  size_t h = 0;
  const auto rows = [&](size_t n) {
    q += n * q_stride;
    scores += n * stride;
    h += n;
  };
  while (h + kHeads <= heads) {
    ScoreHeads<kHeads>(columns, count, dims, rank, q, q_stride, scores, stride);
    rows(kHeads);
  }
  if (h + 2 <= heads) {
    ScoreHeads<2>(columns, count, dims, rank, q, q_stride, scores, stride);
    rows(2);
  }
  if (h < heads) ScoreHeads<1>(columns, count, dims, rank, q, q_stride, scores, stride);
}

float MaxOfF32(const float* values, size_t n) {
  return MaxOver(n, values[0], [=](auto d, size_t i) HWY_ATTR { return hn::LoadU(d, values + i); });
}

float SumExp2F32(const float* values, size_t n, float max) {
  return SumOver(n, [=](auto d, size_t i) HWY_ATTR {
    const auto x = hn::Sub(hn::LoadU(d, values + i), hn::Set(d, max));
    return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -126.0f)), Exp2(d, x));
  });
}

void AddScaledF32(const float* values, size_t n, float factor, float* acc) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, values + i), hn::Set(d, factor), hn::LoadU(d, acc + i)), d,
               acc + i);
  });
}

RowStatistics MergeChunksF32(const float* max, const float* sum, size_t stride, size_t chunks,
                             float* factors) {
  for (size_t c = 0; c < chunks; ++c) factors[c] = max[c * stride];
  const float top = MaxOfF32(factors, chunks);
  ForEachVector(chunks, [=](auto d, size_t i) HWY_ATTR {
    const auto x = hn::Sub(hn::LoadU(d, factors + i), hn::Set(d, top));
    hn::StoreU(hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -126.0f)), Exp2(d, x)), d, factors + i);
  });
  float total = 0;
  for (size_t c = 0; c < chunks; ++c) total += factors[c] * sum[c * stride];
  ForEachVector(chunks, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, factors + i), hn::Set(d, 1.0f / total)), d, factors + i);
  });
  return {top, total};
}

#define KVASIR_COLUMN_KERNELS(T, Suffix)                                                      \
  void ScoreColumns##Suffix(const T* columns, size_t count, const int32_t* dims, size_t rank, \
                            const float* q, size_t q_stride, size_t heads, float* scores,     \
                            size_t stride) {                                                  \
    ScoreColumnsT(columns, count, dims, rank, q, q_stride, heads, scores, stride);            \
  }
KVASIR_COLUMN_KERNELS(float, F32)
KVASIR_COLUMN_KERNELS(bf16, Bf16)
KVASIR_COLUMN_KERNELS(f16, F16)
KVASIR_COLUMN_KERNELS(int8_t, S8)
#undef KVASIR_COLUMN_KERNELS

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

#define KVASIR_DISPATCH_COLUMN_KERNELS(T, Suffix)                                        \
  HWY_EXPORT(ScoreColumns##Suffix);                                                      \
  template <>                                                                            \
  void ScoreColumns<T>(const T* columns, size_t count, const int32_t* dims, size_t rank, \
                       const float* q, size_t q_stride, size_t heads, float* scores,     \
                       size_t stride) {                                                  \
    HWY_DYNAMIC_DISPATCH(ScoreColumns##Suffix)                                           \
    (columns, count, dims, rank, q, q_stride, heads, scores, stride);                    \
  }
KVASIR_DISPATCH_COLUMN_KERNELS(float, F32)
KVASIR_DISPATCH_COLUMN_KERNELS(bf16, Bf16)
KVASIR_DISPATCH_COLUMN_KERNELS(f16, F16)
KVASIR_DISPATCH_COLUMN_KERNELS(int8_t, S8)
#undef KVASIR_DISPATCH_COLUMN_KERNELS

HWY_EXPORT(MaxOfF32);
HWY_EXPORT(SumExp2F32);
HWY_EXPORT(AddScaledF32);
HWY_EXPORT(MergeChunksF32);

float MaxOf(const float* values, size_t n) { return HWY_DYNAMIC_DISPATCH(MaxOfF32)(values, n); }
float SumExp2(const float* values, size_t n, float max) {
  return HWY_DYNAMIC_DISPATCH(SumExp2F32)(values, n, max);
}
RowStatistics MergeChunks(const float* max, const float* sum, size_t stride, size_t chunks,
                          float* factors) {
  return HWY_DYNAMIC_DISPATCH(MergeChunksF32)(max, sum, stride, chunks, factors);
}
void AddScaled(const float* values, size_t n, float factor, float* acc) {
  HWY_DYNAMIC_DISPATCH(AddScaledF32)(values, n, factor, acc);
}

}  // namespace kvasir
#endif  // HWY_ONCE
