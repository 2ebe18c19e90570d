// Exact attention to scattered rows: scores, their weights, the mix.
#include "base/check.h"
#include "hwy/highway.h"
#include "runtime/kernels/bf16_pick_kernels.h"

#if HWY_ARCH_X86_64

#include <algorithm>
#include <limits>
#include <type_traits>

#include "runtime/kernels/avx512_bf16-inl.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {

using namespace avx512;

// 2^x for x <= 0, 0 below 2^-150. The polynomial's relative error is 3e-6, far below bf16's 2^-9.
inline __m512 Exp2OfNegative(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-200.0f));  // keeps -infinity out of the subtraction
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.009582850681200794f),
                             _mm512_set1_ps(0.055906428245964694f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(0.24024098682903777f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(0.693124192758868f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

// The even and the odd elements of 32 bf16.
inline __m512 EvenFloats(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}
inline __m512 OddFloats(__m512i pairs) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline void PrefetchNear(const void* line) {
  _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T0);
}

template <bool kHalf>
inline __m512i LoadPart(const bf16* from) {
  if constexpr (kHalf) return LoadHalf(from);
  return _mm512_loadu_si512(from);
}

// Sums of each 128-bit lane: lane r of the result holds those of a[0] to a[3].
inline __m512 SumLanes(const __m512 (&a)[4]) {
  const __m512 low = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
  const __m512 high = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
  const __m512d l = _mm512_castps_pd(low), h = _mm512_castps_pd(high);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(l, h)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(l, h)));
}

// What one of the passes over a list of rows prefetches of each: row t + rows is asked for with row
// t, its lines first, first + step, ... Passes share the asking evenly, so that memory works as
// long as they do.
struct Ahead {
  size_t rows, first, step;
};

// Scores of the rows at `rows` for kQuads quads, kRows rows at a time: a multiple of four, whose
// lanes add up together. Many sums hide the latency of the products, many quads share what is
// loaded of a row.
template <size_t kQuads, size_t kRows>
inline void ScoreQuads(const bf16* const* rows, size_t count, size_t dim, const uint32_t* quads,
                       Ahead ahead, float* scores, size_t stride) {
  for (size_t t = 0; t < count; t += kRows) {
    __m512 sums[kQuads][kRows];
#pragma GCC unroll 16
    for (size_t i = 0; i < kQuads * kRows; ++i) sums[i / kRows][i % kRows] = _mm512_setzero_ps();
    const bf16* row[kRows];
    for (size_t i = 0; i < kRows; ++i) row[i] = rows[std::min(t + i, count - 1)];
    for (size_t i = 0; i < kRows && t + i < count; ++i) {
      for (size_t d = 32 * ahead.first; d < dim; d += 32 * ahead.step)
        PrefetchNear(rows[t + i + ahead.rows] + d);
    }
    for (size_t d = 0; d < dim; d += 8) {
      __m512i key[kRows];
#pragma GCC unroll 8
      for (size_t i = 0; i < kRows; ++i) {
        key[i] =
            _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row[i] + d)));
      }
#pragma GCC unroll 4
      for (size_t quad = 0; quad < kQuads; ++quad) {
        const __m512i query = _mm512_loadu_si512(quads + quad * dim * 2 + 2 * d);
#pragma GCC unroll 8
        for (size_t i = 0; i < kRows; ++i) sums[quad][i] = Dot(sums[quad][i], key[i], query);
      }
    }
#pragma GCC unroll 4
    for (size_t quad = 0; quad < kQuads; ++quad) {
      for (size_t i = 0; i < kRows && t + i < count; i += 4) {
        const __m512 four[4] = {sums[quad][i], sums[quad][i + 1], sums[quad][i + 2],
                                sums[quad][i + 3]};
        const __m512 sum = SumLanes(four);
        float* const to = scores + quad * 4 * stride + t + i;
        _mm_storeu_ps(to, _mm512_castps512_ps128(sum));
        _mm_storeu_ps(to + stride, _mm512_extractf32x4_ps(sum, 1));
        _mm_storeu_ps(to + 2 * stride, _mm512_extractf32x4_ps(sum, 2));
        _mm_storeu_ps(to + 3 * stride, _mm512_extractf32x4_ps(sum, 3));
      }
    }
  }
}

// kLoads * 32 elements of the mix of kNum heads, or with kHalf 16.
template <size_t kNum, size_t kLoads, bool kHalf>
inline void MixRowColumns(const bf16* const* rows, size_t count, size_t begin, const bf16* weights,
                          size_t weights_stride, Ahead ahead, float* mix, size_t mix_stride) {
  static_assert(!kHalf || kLoads == 1);
  constexpr size_t kVectors = 2 * kLoads - (kHalf ? 1 : 0);
  bool asked[kLoads];
  for (size_t i = 0; i < kLoads; ++i) asked[i] = (begin / 32 + i) % ahead.step == ahead.first;
  __m512 sums[kNum][kVectors];
#pragma GCC unroll 16
  for (size_t i = 0; i < kNum * kVectors; ++i)
    sums[i / kVectors][i % kVectors] = _mm512_setzero_ps();
  for (size_t t = 0; t < count; t += 2) {
    const bool paired = t + 1 < count;
    const bf16* a = rows[t] + begin;
    const bf16* b = (paired ? rows[t + 1] : rows[t]) + begin;  // an odd one's weight is 0
    __m512i value[2 * kLoads];
#pragma GCC unroll 4
    for (size_t i = 0; i < kLoads; ++i) {
      if (asked[i]) {
        PrefetchNear(rows[t + ahead.rows] + begin + 32 * i);
        if (paired) PrefetchNear(rows[t + 1 + ahead.rows] + begin + 32 * i);
      }
      const Interleaved both = Interleave(LoadPart<kHalf>(a + 32 * i), LoadPart<kHalf>(b + 32 * i));
      value[2 * i] = both.low;
      value[2 * i + 1] = both.high;
    }
#pragma GCC unroll 8
    for (size_t h = 0; h < kNum; ++h) {
      uint32_t pair;
      __builtin_memcpy(&pair, weights + h * weights_stride + t, sizeof(pair));
      const __m512i weight = Broadcast(pair);
#pragma GCC unroll 8
      for (size_t v = 0; v < kVectors; ++v) sums[h][v] = Dot(sums[h][v], value[v], weight);
    }
  }
#pragma GCC unroll 8
  for (size_t h = 0; h < kNum; ++h) {
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v)
      _mm512_storeu_ps(mix + h * mix_stride + begin + 16 * v, sums[h][v]);
  }
}

template <size_t kNum>
inline void MixHeads(const bf16* const* rows, size_t count, size_t dim, const bf16* weights,
                     size_t weights_stride, Ahead ahead, float* mix, size_t mix_stride) {
  constexpr size_t kLoads = kNum <= 2   ? 4
                            : kNum <= 4 ? 2
                                        : 1;  // sums fill at most half of the registers
  size_t d = 0;
  for (; d + 32 * kLoads <= dim; d += 32 * kLoads) {
    MixRowColumns<kNum, kLoads, false>(rows, count, d, weights, weights_stride, ahead, mix,
                                       mix_stride);
  }
  for (; d + 32 <= dim; d += 32) {
    MixRowColumns<kNum, 1, false>(rows, count, d, weights, weights_stride, ahead, mix, mix_stride);
  }
  if (d < dim)
    MixRowColumns<kNum, 1, true>(rows, count, d, weights, weights_stride, ahead, mix, mix_stride);
}

}  // namespace

void PackQuads(const float* q, size_t heads, size_t dim, uint32_t* out) {
  std::fill_n(out, QuadsOf(heads) * dim * 2, 0u);
  for (size_t h = 0; h < heads; ++h) {
    for (size_t d = 0; d < dim; d += 2) {
      const bf16 pair[2] = {ToBf16(q[h * dim + d]), ToBf16(q[h * dim + d + 1])};
      __builtin_memcpy(out + h / 4 * dim * 2 + d / 8 * 16 + h % 4 * 4 + d % 8 / 2, pair,
                       sizeof(pair));
    }
  }
}

void ScoreRowPairs(const bf16* const* rows, size_t count, size_t dim, const uint32_t* quads,
                   size_t heads, float* scores, size_t stride) {
  const size_t num = QuadsOf(heads), passes = (num + 3) / 4;
  for (size_t quad = 0; quad < num; quad += 4, quads += 4 * dim * 2, scores += 16 * stride) {
    const Ahead ahead = {RowsAhead(count, num), quad / 4, passes};
    switch (std::min<size_t>(4, num - quad)) {
      case 1:
        ScoreQuads<1, 8>(rows, count, dim, quads, ahead, scores, stride);
        break;
      case 2:
        ScoreQuads<2, 4>(rows, count, dim, quads, ahead, scores, stride);
        break;
      case 3:
        ScoreQuads<3, 4>(rows, count, dim, quads, ahead, scores, stride);
        break;
      default:
        ScoreQuads<4, 4>(rows, count, dim, quads, ahead, scores, stride);
    }
  }
}

RowStatistics WeighRowPairs(float* scores, size_t count, float scale, bf16* weights) {
  const size_t columns = (count + 31) / 32 * 32;
  for (size_t i = count; i < columns; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  __m512 max0 = _mm512_loadu_ps(scores), max1 = _mm512_loadu_ps(scores + 16);
  for (size_t i = 32; i < columns; i += 32) {
    max0 = _mm512_max_ps(max0, _mm512_loadu_ps(scores + i));
    max1 = _mm512_max_ps(max1, _mm512_loadu_ps(scores + i + 16));
  }
  const float max = scale * _mm512_reduce_max_ps(_mm512_max_ps(max0, max1));
  const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(max);
  __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
  const auto weigh = [&](size_t i) {
    const __m512 low = Exp2OfNegative(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), factor, shift));
    const __m512 high =
        Exp2OfNegative(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i + 16), factor, shift));
    const __m512i narrow = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    _mm512_storeu_si512(weights + i, narrow);
    sum0 = _mm512_add_ps(sum0, EvenFloats(narrow));
    sum1 = _mm512_add_ps(sum1, OddFloats(narrow));
  };
  size_t i = 0;
  for (; i + 64 <= columns; i += 64) {  // more chains, for the latency of the polynomial
    weigh(i);
    weigh(i + 32);
  }
  if (i < columns) weigh(i);
  return {max, _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1))};
}

void MixRowPairs(const bf16* const* rows, size_t count, size_t dim, const bf16* weights,
                 size_t weights_stride, size_t heads, float* mix, size_t mix_stride) {
  // Up to eight heads share the rows of a pair that was interleaved once.
  const size_t passes = heads / 8 + (heads % 8 + 3) / 4;
  size_t pass = 0;
  for (size_t h = 0; h < heads; ++pass) {
    const bf16* w = weights + h * weights_stride;
    float* m = mix + h * mix_stride;
    const Ahead ahead = {RowsAhead(count, QuadsOf(heads)), pass, passes};
    const auto heads_of = [&]<size_t kNum>(std::integral_constant<size_t, kNum>) {
      MixHeads<kNum>(rows, count, dim, w, weights_stride, ahead, m, mix_stride);
      h += kNum;
    };
    switch (std::min<size_t>(8, heads - h)) {
      case 1:
        heads_of(std::integral_constant<size_t, 1>());
        break;
      case 2:
        heads_of(std::integral_constant<size_t, 2>());
        break;
      case 3:
        heads_of(std::integral_constant<size_t, 3>());
        break;
      case 8:
        heads_of(std::integral_constant<size_t, 8>());
        break;
      default:
        heads_of(std::integral_constant<size_t, 4>());
    }
  }
}

}  // namespace kvasir
KVASIR_AVX512_BF16_END

#else  // no such instructions: HasBf16Products() says so, and nobody calls these

namespace kvasir {

void PackQuads(const float*, size_t, size_t, uint32_t*) { KVASIR_CHECK(false); }
void ScoreRowPairs(const bf16* const*, size_t, size_t, const uint32_t*, size_t, float*, size_t) {
  KVASIR_CHECK(false);
}
RowStatistics WeighRowPairs(float*, size_t, float, bf16*) {
  KVASIR_CHECK(false);
  return {};
}
void MixRowPairs(const bf16* const*, size_t, size_t, const bf16*, size_t, size_t, float*, size_t) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir
#endif
