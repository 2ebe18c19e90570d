#include "runtime/kernels/sparq_kernels.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/sparq_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

// Heads whose sums are kept in registers at once. More would spill, fewer would read the stored rows again and
// again; AVX-512 and NEON have 32 registers, the others 16.
constexpr size_t kHeads = 4;

// kGroups groups of 16 positions for kNum heads: one column element is loaded once for all of them.
template <size_t kNum, size_t kGroups, class T>
HWY_INLINE void ScoreGroups(const T* HWY_RESTRICT columns, size_t count, const int32_t* HWY_RESTRICT dims, size_t rank,
                            const float* HWY_RESTRICT q, size_t q_stride, const T* ahead, float* HWY_RESTRICT scores,
                            size_t stride) {
  const hn::CappedTag<float, 16> d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kVectors = kGroups * 16 / HWY_MIN(HWY_LANES(float), 16);
  hn::Vec<decltype(d)> sums[kNum][kVectors];
  for (size_t h = 0; h < kNum; ++h) {
    for (size_t v = 0; v < kVectors; ++v) sums[h][v] = hn::Zero(d);
  }
  for (size_t i = 0; i < rank; ++i) {
    const size_t offset = static_cast<size_t>(dims[i]) * count;
    if (ahead != nullptr) hwy::Prefetch(ahead + offset);
    hn::Vec<decltype(d)> k[kVectors];
    for (size_t v = 0; v < kVectors; ++v) k[v] = LoadFloats(d, columns + offset + v * lanes);
    for (size_t h = 0; h < kNum; ++h) {
      const auto factor = hn::Set(d, q[h * q_stride + i]);
      for (size_t v = 0; v < kVectors; ++v) sums[h][v] = hn::MulAdd(factor, k[v], sums[h][v]);
    }
  }
  for (size_t h = 0; h < kNum; ++h) {
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[h][v], d, scores + h * stride + v * lanes);
  }
}

template <size_t kNum, class T>
HWY_INLINE void ScoreHeads(const T* columns, size_t count, const int32_t* dims, size_t rank, const float* q,
                           size_t q_stride, const T* ahead, float* scores, size_t stride) {
  constexpr size_t kGroups = 2;  // 32 positions: a line of 16-bit elements
  size_t t = 0;
  for (; t + kGroups * 16 <= count; t += kGroups * 16) {
    ScoreGroups<kNum, kGroups>(columns + t, count, dims, rank, q, q_stride, ahead == nullptr ? nullptr : ahead + t,
                               scores + t, stride);
  }
  for (; t < count; t += 16) {
    ScoreGroups<kNum, 1>(columns + t, count, dims, rank, q, q_stride, ahead == nullptr ? nullptr : ahead + t,
                         scores + t, stride);
  }
}

template <class T>
HWY_INLINE void ScoreColumnsT(const T* columns, size_t count, const int32_t* dims, size_t rank, const float* q, size_t q_stride,
                   size_t heads, const T* ahead, float* scores, size_t stride) {
  size_t h = 0;
  const auto rows = [&](size_t n) {
    q += n * q_stride;
    scores += n * stride;
    ahead = nullptr;  // asked for once
    h += n;
  };
  while (h + kHeads <= heads) {
    ScoreHeads<kHeads>(columns, count, dims, rank, q, q_stride, ahead, scores, stride);
    rows(kHeads);
  }
  if (h + 2 <= heads) {
    ScoreHeads<2>(columns, count, dims, rank, q, q_stride, ahead, scores, stride);
    rows(2);
  }
  if (h < heads) ScoreHeads<1>(columns, count, dims, rank, q, q_stride, ahead, scores, stride);
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
    hn::StoreU(hn::MulAdd(hn::LoadU(d, values + i), hn::Set(d, factor), hn::LoadU(d, acc + i)), d, acc + i);
  });
}

// ---- top-k ----

// Keys that order as signed integers as their floats do; -0 and 0 are equal.
template <class D>
HWY_INLINE hn::Vec<I32<D>> OrderedKey(D d, hn::Vec<D> value) {
  const I32<D> di;
  const auto bits = hn::BitCast(di, hn::Add(value, hn::Zero(d)));  // -0 + 0 = 0
  const auto magnitude_flip = hn::And(hn::BroadcastSignBit(bits), hn::Set(di, 0x7fffffff));
  return hn::Xor(bits, magnitude_flip);
}

constexpr uint32_t kKeyBias = 0x80000000u;  // makes ordered keys order as unsigned integers
constexpr int kBinBits = 11;
constexpr size_t kBins = size_t{1} << kBinBits;

// Counts keys by the `bits` bits above `shift`. Two tables, so that equal neighbours do not wait for each other.
HWY_INLINE void CountBins(const int32_t* keys, size_t n, int shift, int bits, uint32_t* bins) {
  const uint32_t mask = (1u << bits) - 1;
  std::fill_n(bins, 2 * kBins, 0u);
  const auto bin = [=](size_t i) { return ((static_cast<uint32_t>(keys[i]) ^ kKeyBias) >> shift) & mask; };
  size_t i = 0;
  for (; i + 2 <= n; i += 2) {
    ++bins[bin(i)];
    ++bins[kBins + bin(i + 1)];
  }
  if (i < n) ++bins[bin(i)];
}

// Writes the indices of the `count` values that are above `threshold`, or equal to it and not behind last_tie.
HWY_INLINE void EmitIndices(const float* values, size_t n, int32_t threshold, int32_t last_tie, size_t count,
                            int32_t* out) {
  const hn::ScalableTag<float> d;
  const I32<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  const auto limit = hn::Set(di, threshold), last = hn::Set(di, last_tie);
  size_t stored = 0, i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto key = OrderedKey(d, hn::LoadU(d, values + i));
    const auto indices = hn::Iota(di, static_cast<int32_t>(i));
    const auto tied = hn::And(hn::Eq(key, limit), hn::Not(hn::Gt(indices, last)));
    stored += hn::CompressStore(indices, hn::Or(hn::Gt(key, limit), tied), di, out + stored);
  }
  const hn::CappedTag<float, 1> one;
  for (; i < n && stored < count; ++i) {
    const int32_t key = hn::GetLane(OrderedKey(one, hn::LoadU(one, values + i)));
    if (key > threshold || (key == threshold && static_cast<int32_t>(i) <= last_tie)) {
      out[stored++] = static_cast<int32_t>(i);
    }
  }
}

// Moves the keys in [first, last] to the front, in order, and returns how many they are. What is written never passes
// what is read.
HWY_INLINE size_t KeepRange(int32_t* keys, size_t n, int32_t first, int32_t last) {
  const hn::ScalableTag<int32_t> d;
  const size_t lanes = hn::Lanes(d);
  size_t kept = 0, i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto key = hn::LoadU(d, keys + i);
    // Not (below or above): the SSE targets have no integer >=.
    const auto outside = hn::Or(hn::Lt(key, hn::Set(d, first)), hn::Gt(key, hn::Set(d, last)));
    kept += hn::CompressStore(key, hn::Not(outside), d, keys + kept);
  }
  for (; i < n; ++i) {  // a one-lane CompressStore would write a whole vector
    const int32_t key = keys[i];
    if (key >= first && key <= last) keys[kept++] = key;
  }
  return kept;
}

// Radix select: each round counts keys by their next 11 bits and keeps those of the one bin in which the count-th
// largest lies. Three rounds for 32 bits, of which only the first sees all values.
void SelectLargestF32(const float* values, size_t n, size_t count, uint32_t* scratch, int32_t* picks) {
  if (count == 0) return;
  if (count == n) {
    for (size_t i = 0; i < n; ++i) picks[i] = static_cast<int32_t>(i);
    return;
  }
  uint32_t bins[2 * kBins];
  int32_t* const keys = reinterpret_cast<int32_t*>(scratch);
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(OrderedKey(d, hn::LoadU(d, values + i)), I32<decltype(d)>(), keys + i);
  });
  size_t candidates = n;
  size_t wanted = count;  // of the candidates; all keys above them are selected
  uint32_t low = 0;       // smallest candidate there can be, biased
  for (int shift = 32; candidates > wanted && shift > 0;) {
    const int bits = std::min(kBinBits, shift);
    shift -= bits;
    CountBins(keys, candidates, shift, bits, bins);
    size_t bin = size_t{1} << bits;
    size_t in_bin = 0;
    for (;;) {
      --bin;
      in_bin = size_t{bins[bin]} + bins[kBins + bin];
      if (in_bin >= wanted) break;
      wanted -= in_bin;
    }
    low |= static_cast<uint32_t>(bin) << shift;
    const int32_t first = static_cast<int32_t>(low ^ kKeyBias);
    const int32_t last = static_cast<int32_t>((low | ((1u << shift) - 1)) ^ kKeyBias);
    candidates = KeepRange(keys, candidates, first, last);
  }
  const int32_t threshold = static_cast<int32_t>(low ^ kKeyBias);
  int32_t last_tie = std::numeric_limits<int32_t>::max();
  if (candidates > wanted) {
    // All candidates are equal, and only the first `wanted` of them are selected.
    const hn::CappedTag<float, 1> one;
    for (size_t i = 0; wanted > 0; ++i) {
      if (hn::GetLane(OrderedKey(one, hn::LoadU(one, values + i))) != threshold) continue;
      last_tie = static_cast<int32_t>(i);
      --wanted;
    }
  }
  EmitIndices(values, n, threshold, last_tie, count, picks);
}

// ---- scattered rows ----

// One line ahead per line read: a burst of requests would only fill the core's table of outstanding misses.
template <class T>
HWY_INLINE void PrefetchBytes(const T* row, size_t begin, size_t end) {
  constexpr size_t kLine = 64 / sizeof(T);
  for (size_t i = begin; i < end; i += kLine) hwy::Prefetch(row + i);
}

template <size_t kNum, class T>
HWY_INLINE void ScoreRowsOf(const T* const* rows, size_t count, size_t dim, const float* HWY_RESTRICT q, bool prefetch,
                            float* scores, size_t stride) {
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
      for (size_t h = 0; h < kNum; ++h) even[h] = hn::MulAdd(hn::LoadU(d, q + h * dim + i), k, even[h]);
    }
    float sums[kNum];
    for (size_t h = 0; h < kNum; ++h) sums[h] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even[h], odd[h])));
    for (; i < dim; ++i) {
      const float k = hn::GetLane(LoadFloats(one, row + i));
      for (size_t h = 0; h < kNum; ++h) sums[h] += q[h * dim + i] * k;
    }
    for (size_t h = 0; h < kNum; ++h) scores[h * stride + t] = sums[h];
  }
}

template <class T>
HWY_INLINE void ScoreRowsT(const T* const* rows, size_t count, size_t dim, const float* q, size_t heads, float* scores,
                           size_t stride) {
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
HWY_INLINE void MixColumns(D d, const T* const* rows, size_t count, size_t begin, const float* HWY_RESTRICT weights,
                           size_t weights_stride, bool prefetch, float* mix, size_t mix_stride) {
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
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[h][v], d, mix + h * mix_stride + begin + v * lanes);
  }
}

template <size_t kNum, class T>
HWY_INLINE void MixRowsOf(const T* const* rows, size_t count, size_t dim, const float* weights, size_t weights_stride,
                          bool prefetch, float* mix, size_t mix_stride) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  // Sums fill half of 32 registers, or of 16.
  constexpr size_t kVectors = (HWY_CAP_GE512 ? 16 : 8) / kNum;
  size_t i = 0;
  for (; i + kVectors * lanes <= dim; i += kVectors * lanes) {
    MixColumns<kNum, kVectors>(d, rows, count, i, weights, weights_stride, prefetch, mix, mix_stride);
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
HWY_INLINE void MixRowsT(const T* const* rows, size_t count, size_t dim, const float* weights, size_t weights_stride,
                         size_t heads, float* mix, size_t mix_stride) {
  size_t h = 0;
  for (; h + kHeads <= heads; h += kHeads) {
    MixRowsOf<kHeads>(rows, count, dim, weights + h * weights_stride, weights_stride, h == 0, mix + h * mix_stride,
                      mix_stride);
  }
  if (h + 2 <= heads) {
    MixRowsOf<2>(rows, count, dim, weights + h * weights_stride, weights_stride, h == 0, mix + h * mix_stride,
                 mix_stride);
    h += 2;
  }
  if (h < heads) {
    MixRowsOf<1>(rows, count, dim, weights + h * weights_stride, weights_stride, h == 0, mix + h * mix_stride,
                 mix_stride);
  }
}

// One exported name per stored type: Highway's dispatch tables take no templates.
#define KVASIR_ROW_KERNELS(T, Suffix)                                                                                 \
  void ScoreRows##Suffix(const T* const* rows, size_t count, size_t dim, const float* q, size_t heads, float* scores, \
                         size_t stride) {                                                                             \
    ScoreRowsT(rows, count, dim, q, heads, scores, stride);                                                           \
  }                                                                                                                   \
  void MixRows##Suffix(const T* const* rows, size_t count, size_t dim, const float* weights, size_t weights_stride,   \
                       size_t heads, float* mix, size_t mix_stride) {                                                 \
    MixRowsT(rows, count, dim, weights, weights_stride, heads, mix, mix_stride);                                      \
  }                                                                                                                   \
  void ScoreColumns##Suffix(const T* columns, size_t count, const int32_t* dims, size_t rank, const float* q,         \
                            size_t q_stride, size_t heads, const T* ahead, float* scores, size_t stride) {            \
    ScoreColumnsT(columns, count, dims, rank, q, q_stride, heads, ahead, scores, stride);                             \
  }                                                                                                                   \
  void AddRows##Suffix(const T* rows, const float* scales, size_t count, size_t dim, float* sum) {                    \
    AddRowsT(rows, scales, count, dim, sum);                                                                          \
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

#define KVASIR_DISPATCH_ROW_KERNELS(T, Suffix)                                                                       \
  HWY_EXPORT(ScoreColumns##Suffix);                                                                                  \
  HWY_EXPORT(AddRows##Suffix);                                                                                       \
  HWY_EXPORT(ScoreRows##Suffix);                                                                                     \
  HWY_EXPORT(MixRows##Suffix);                                                                                       \
  template <>                                                                                                        \
  void ScoreColumns<T>(const T* columns, size_t count, const int32_t* dims, size_t rank, const float* q,             \
                       size_t q_stride, size_t heads, const T* ahead, float* scores, size_t stride) {                \
    HWY_DYNAMIC_DISPATCH(ScoreColumns##Suffix)                                                                       \
    (columns, count, dims, rank, q, q_stride, heads, ahead, scores, stride);                                         \
  }                                                                                                                  \
  template <>                                                                                                        \
  void AddRows<T>(const T* rows, const float* scales, size_t count, size_t dim, float* sum) {                        \
    HWY_DYNAMIC_DISPATCH(AddRows##Suffix)(rows, scales, count, dim, sum);                                            \
  }                                                                                                                  \
  template <>                                                                                                        \
  void ScoreRows<T>(const T* const* rows, size_t count, size_t dim, const float* q, size_t heads, float* scores,     \
                    size_t stride) {                                                                                 \
    HWY_DYNAMIC_DISPATCH(ScoreRows##Suffix)(rows, count, dim, q, heads, scores, stride);                             \
  }                                                                                                                  \
  template <>                                                                                                        \
  void MixRows<T>(const T* const* rows, size_t count, size_t dim, const float* weights, size_t weights_stride,       \
                  size_t heads, float* mix, size_t mix_stride) {                                                     \
    HWY_DYNAMIC_DISPATCH(MixRows##Suffix)(rows, count, dim, weights, weights_stride, heads, mix, mix_stride);        \
  }
KVASIR_DISPATCH_ROW_KERNELS(float, F32)
KVASIR_DISPATCH_ROW_KERNELS(bf16, Bf16)
KVASIR_DISPATCH_ROW_KERNELS(f16, F16)
KVASIR_DISPATCH_ROW_KERNELS(int8_t, S8)
#undef KVASIR_DISPATCH_ROW_KERNELS

HWY_EXPORT(MaxOfF32);
HWY_EXPORT(SumExp2F32);
HWY_EXPORT(AddScaledF32);
HWY_EXPORT(SelectLargestF32);

float MaxOf(const float* values, size_t n) { return HWY_DYNAMIC_DISPATCH(MaxOfF32)(values, n); }
float SumExp2(const float* values, size_t n, float max) { return HWY_DYNAMIC_DISPATCH(SumExp2F32)(values, n, max); }
void AddScaled(const float* values, size_t n, float factor, float* acc) {
  HWY_DYNAMIC_DISPATCH(AddScaledF32)(values, n, factor, acc);
}
void SelectLargest(const float* values, size_t n, size_t count, uint32_t* scratch, int32_t* picks) {
  HWY_DYNAMIC_DISPATCH(SelectLargestF32)(values, n, count, scratch, picks);
}

}  // namespace kvasir
#endif  // HWY_ONCE
