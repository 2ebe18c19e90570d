#include "runtime/kernels/bf16_sparq_kernels.h"

#include "hwy/highway.h"
#include "base/check.h"
#include "runtime/kernels/sparq_kernels.h"

#if HWY_ARCH_X86_64

#include <algorithm>
#include <limits>
#include <type_traits>

#include "runtime/kernels/avx512_bf16-inl.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {

// 2^x for x <= 0, 0 below 2^-150. The polynomial's relative error is 3e-6, far below bf16's 2^-9.
inline __m512 Exp2OfNegative(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-200.0f));  // keeps -infinity out of the subtraction
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.009582850681200794f), _mm512_set1_ps(0.055906428245964694f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(0.24024098682903777f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(0.693124192758868f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

// The bits of a bf16 that is near 2^x are 128 (x + 127): exponent and mantissa in one number, which is linear in x where
// it should be a power. What is too much, by the upper 6 of the mantissa's 7 bits.
struct PowerTables {
  alignas(64) uint16_t excess[64];
  alignas(64) uint8_t in_pairs[64];  // [lane][4 words, 4 words] to [lane][4 pairs]
};

constexpr PowerTables MakePowerTables() {
  PowerTables tables{};
  constexpr double kLn2 = 0.6931471805599453;
  for (int i = 0; i < 64; ++i) {
    const double fraction = (2 * i + 0.5) / kLogitUnits;  // between the two mantissas that share an entry
    double power = 1, term = 1;
    for (int n = 1; n < 20; ++n) power += term *= fraction * kLn2 / n;
    tables.excess[i] = static_cast<uint16_t>((fraction - (power - 1)) * kLogitUnits + 0.5);
  }
  for (int i = 0; i < 64; ++i) {
    const int word = i % 16 / 2;
    tables.in_pairs[i] = static_cast<uint8_t>(2 * (word / 2 + word % 2 * 4) + i % 2);
  }
  return tables;
}

constexpr PowerTables kPowers = MakePowerTables();

// Pairs (2^a[t], 2^b[t]) of exponents that are given as said above. Those too small become 0, those too large infinite.
inline __m512i PairsOfPowers(__m512 a, __m512 b) {
  const __m512i infinity = _mm512_set1_epi16(0x7f80);
  __m512i words = _mm512_packus_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
  words = _mm512_min_epu16(words, infinity);
  const __m512i excess =
      _mm512_permutex2var_epi16(_mm512_load_si512(kPowers.excess), _mm512_srli_epi16(words, 1),
                                _mm512_load_si512(kPowers.excess + 32));
  return _mm512_shuffle_epi8(_mm512_sub_epi16(words, excess), _mm512_load_si512(kPowers.in_pairs));
}

// The even and the odd elements of 32 bf16.
inline __m512 EvenFloats(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline __m512 OddFloats(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline __m512 Dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

inline __m512i Broadcast(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }

inline void PrefetchLine(const void* line) { _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T0); }

// [t] of two rows interleaved: words (a[t], b[t]).
struct Interleaved {
  __m512i low, high;
};
inline Interleaved Interleave(__m512i a, __m512i b) {
  const __m512i low = _mm512_load_si512(avx512::kInterleave.low), high = _mm512_load_si512(avx512::kInterleave.high);
  return {_mm512_permutex2var_epi16(a, low, b), _mm512_permutex2var_epi16(a, high, b)};
}

inline __m512i LoadHalf(const bf16* from) {
  return _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

// Columns that were packed: words [pairs][stride].
struct PackedColumns {
  const uint32_t* words;
  size_t stride;

  template <size_t kVectors>
  void Load(size_t pair, __m512i (&out)[kVectors]) const {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) out[v] = _mm512_loadu_si512(words + pair * stride + 16 * v);
  }
};

// 32 columns at each of two places, or at the first, packed while they are loaded.
struct ColumnRows {
  const bf16* places[2];
  size_t row_stride;
  const int32_t* dims;
  size_t rank;

  template <size_t kVectors>
  void Load(size_t pair, __m512i (&out)[kVectors]) const {
    static_assert(kVectors % 2 == 0);
    const bool paired = 2 * pair + 1 < rank;
    const size_t first = dims[2 * pair] * row_stride, second = paired ? dims[2 * pair + 1] * row_stride : 0;
#pragma GCC unroll 2
    for (size_t v = 0; v < kVectors; v += 2) {
      const bf16* place = places[v / 2];
      const __m512i b = paired ? _mm512_loadu_si512(place + second) : _mm512_setzero_si512();
      const Interleaved both = Interleave(_mm512_loadu_si512(place + first), b);
      out[v] = both.low;
      out[v + 1] = both.high;
    }
  }
};

// q_h . columns + start_h, for kNum heads and kVectors vectors of columns.
template <size_t kNum, size_t kVectors, class Columns>
inline void ScorePairs(const uint32_t* queries, size_t pairs, const Columns& columns, const float (&start)[kNum],
                       __m512 (&sums)[kNum][kVectors]) {
#pragma GCC unroll 16
  for (size_t i = 0; i < kNum * kVectors; ++i) sums[i / kVectors][i % kVectors] = _mm512_set1_ps(start[i / kVectors]);
  for (size_t p = 0; p < pairs; ++p) {
    __m512i column[kVectors];
    columns.Load(p, column);
#pragma GCC unroll 4
    for (size_t h = 0; h < kNum; ++h) {
      const __m512i query = Broadcast(queries[h * pairs + p]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sums[h][v] = Dot(sums[h][v], column[v], query);
    }
  }
}

// What WeighColumns is given and gives, for the heads from some on.
struct Weighing {
  const uint32_t* queries;
  size_t pairs;
  const float* references;
  uint32_t* weights;
  size_t weights_stride;
  float* sums;

  Weighing From(size_t head) const {
    return {queries + head * pairs, pairs,          references + head, weights + head / 2 * weights_stride,
            weights_stride,         sums + 16 * head};
  }
};

// Weights of kNum heads, an even number, for kVectors vectors of columns, those from position t on; those outside `mask`
// are 0.
template <size_t kNum, size_t kVectors, class Columns>
inline void WeighTile(const Weighing& w, const Columns& columns, size_t t, __mmask16 mask) {
  constexpr float kExponentOfOne = 127 * kLogitUnits;
  float start[kNum];
  for (size_t h = 0; h < kNum; ++h) start[h] = kExponentOfOne - w.references[h];
  __m512 exponents[kNum][kVectors];
  ScorePairs(w.queries, w.pairs, columns, start, exponents);
  const __m512i first = Broadcast(0x00003f80u), second = Broadcast(0x3f800000u);  // pairs (1, 0) and (0, 1)
#pragma GCC unroll 2
  for (size_t h = 0; h < kNum; h += 2) {
    uint32_t* const weights = w.weights + h / 2 * w.weights_stride + t;
    __m512 sum0 = _mm512_loadu_ps(w.sums + 16 * h), sum1 = _mm512_loadu_ps(w.sums + 16 * (h + 1));
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      __m512i both = PairsOfPowers(exponents[h][v], exponents[h + 1][v]);
      if constexpr (kVectors == 1) both = _mm512_maskz_mov_epi32(mask, both);
      _mm512_storeu_si512(weights + 16 * v, both);
      sum0 = Dot(sum0, both, first);
      sum1 = Dot(sum1, both, second);
    }
    _mm512_storeu_ps(w.sums + 16 * h, sum0);
    _mm512_storeu_ps(w.sums + 16 * (h + 1), sum1);
  }
}

// Calls weigh(w, N) for all heads, N of them at a time: 4, and 2 for what is left.
template <class Weigh>
inline void ForEachHeads(const Weighing& w, size_t heads, const Weigh& weigh) {
  size_t h = 0;
  for (; h + 4 <= heads; h += 4) weigh(w.From(h), std::integral_constant<size_t, 4>());
  if (h < heads) weigh(w.From(h), std::integral_constant<size_t, 2>());
}

template <bool kHalf>
inline __m512i LoadPart(const bf16* from) {
  if constexpr (kHalf) return LoadHalf(from);
  return _mm512_loadu_si512(from);
}

// 16 int8 as f32 bits, scaled, and rounded so that the upper half is the bf16.
inline __m512i ScaledInt8(const int8_t* from, __m512 scale) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), scale);
  return _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
}

// Sums of each 128-bit lane: lane r of the result holds those of a[0] to a[3].
inline __m512 SumLanes(const __m512 (&a)[4]) {
  const __m512 low = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
  const __m512 high = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
  const __m512d l = _mm512_castps_pd(low), h = _mm512_castps_pd(high);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(l, h)), _mm512_castpd_ps(_mm512_unpackhi_pd(l, h)));
}

// What one of the passes over a list of rows prefetches of each: row t + rows is asked for with row t, its lines
// first, first + step, ... Passes share the asking evenly, so that memory works as long as they do.
struct Ahead {
  size_t rows, first, step;
};

// Scores of the rows at `rows` for kQuads quads, kRows rows at a time: a multiple of four, whose lanes add up together.
// Many sums hide the latency of the products, many quads share what is loaded of a row.
template <size_t kQuads, size_t kRows>
inline void ScoreQuads(const bf16* const* rows, size_t count, size_t dim, const uint32_t* quads, Ahead ahead,
                       float* scores, size_t stride) {
  for (size_t t = 0; t < count; t += kRows) {
    __m512 sums[kQuads][kRows];
#pragma GCC unroll 16
    for (size_t i = 0; i < kQuads * kRows; ++i) sums[i / kRows][i % kRows] = _mm512_setzero_ps();
    const bf16* row[kRows];
    for (size_t i = 0; i < kRows; ++i) row[i] = rows[std::min(t + i, count - 1)];
    for (size_t i = 0; i < kRows && t + i < count; ++i) {
      for (size_t d = 32 * ahead.first; d < dim; d += 32 * ahead.step) PrefetchLine(rows[t + i + ahead.rows] + d);
    }
    for (size_t d = 0; d < dim; d += 8) {
      __m512i key[kRows];
#pragma GCC unroll 8
      for (size_t i = 0; i < kRows; ++i) {
        key[i] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row[i] + d)));
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
        const __m512 four[4] = {sums[quad][i], sums[quad][i + 1], sums[quad][i + 2], sums[quad][i + 3]};
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
  for (size_t i = 0; i < kNum * kVectors; ++i) sums[i / kVectors][i % kVectors] = _mm512_setzero_ps();
  for (size_t t = 0; t < count; t += 2) {
    const bool paired = t + 1 < count;
    const bf16* a = rows[t] + begin;
    const bf16* b = (paired ? rows[t + 1] : rows[t]) + begin;  // an odd one's weight is 0
    __m512i value[2 * kLoads];
#pragma GCC unroll 4
    for (size_t i = 0; i < kLoads; ++i) {
      if (asked[i]) {
        PrefetchLine(rows[t + ahead.rows] + begin + 32 * i);
        if (paired) PrefetchLine(rows[t + 1 + ahead.rows] + begin + 32 * i);
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
    for (size_t v = 0; v < kVectors; ++v) _mm512_storeu_ps(mix + h * mix_stride + begin + 16 * v, sums[h][v]);
  }
}

template <size_t kNum>
inline void MixHeads(const bf16* const* rows, size_t count, size_t dim, const bf16* weights, size_t weights_stride,
                     Ahead ahead, float* mix, size_t mix_stride) {
  constexpr size_t kLoads = kNum <= 2 ? 4 : kNum <= 4 ? 2 : 1;  // sums fill at most half of the registers
  size_t d = 0;
  for (; d + 32 * kLoads <= dim; d += 32 * kLoads) {
    MixRowColumns<kNum, kLoads, false>(rows, count, d, weights, weights_stride, ahead, mix, mix_stride);
  }
  for (; d + 32 <= dim; d += 32) {
    MixRowColumns<kNum, 1, false>(rows, count, d, weights, weights_stride, ahead, mix, mix_stride);
  }
  if (d < dim) MixRowColumns<kNum, 1, true>(rows, count, d, weights, weights_stride, ahead, mix, mix_stride);
}

}  // namespace

void PackColumnPairs(const bf16* columns, size_t count, const int32_t* dims, size_t rank, uint32_t* out,
                     size_t out_stride) {
  for (size_t i = 0; i < rank; i += 2, out += out_stride) {
    const size_t first = dims[i] * count;
    const bool paired = i + 1 < rank;
    const size_t second = paired ? dims[i + 1] * count : first;
    for (size_t t = 0; t < count; t += 32) {
      const bool whole = t + 32 <= count;
      const __m512i a = whole ? _mm512_loadu_si512(columns + first + t) : LoadHalf(columns + first + t);
      __m512i b = _mm512_setzero_si512();
      if (paired) b = whole ? _mm512_loadu_si512(columns + second + t) : LoadHalf(columns + second + t);
      const Interleaved both = Interleave(a, b);
      _mm512_storeu_si512(out + t, both.low);
      if (whole) _mm512_storeu_si512(out + t + 16, both.high);
    }
  }
}

void PackColumnPairs(const int8_t* columns, const float* scales, size_t count, const int32_t* dims, size_t rank,
                     uint32_t* out, size_t out_stride) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (size_t i = 0; i < rank; i += 2, out += out_stride) {
    const size_t first = dims[i] * count;
    const bool paired = i + 1 < rank;
    const size_t second = paired ? dims[i + 1] * count : first;
    const __m512 first_scale = _mm512_set1_ps(scales[dims[i]]);
    const __m512 second_scale = paired ? _mm512_set1_ps(scales[dims[i + 1]]) : _mm512_setzero_ps();
    for (size_t t = 0; t < count; t += 16) {
      const __m512i a = _mm512_srli_epi32(ScaledInt8(columns + first + t, first_scale), 16);
      const __m512i b = _mm512_and_si512(ScaledInt8(columns + second + t, second_scale), upper);
      _mm512_storeu_si512(out + t, _mm512_or_si512(a, b));
    }
  }
}

void MaxOfColumns(const uint32_t* queries, size_t heads, size_t pairs, const uint32_t* columns, size_t stride,
                  size_t count, float* max) {
  for (size_t h = 0; h < heads; ++h) {
    __m512 best = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (size_t t = 0; t < count; t += 16) {
      const float start[1] = {0};
      __m512 scores[1][1];
      ScorePairs(queries + h * pairs, pairs, PackedColumns{columns + t, stride}, start, scores);
      const __mmask16 mask = static_cast<__mmask16>(count - t >= 16 ? 0xffffu : (1u << (count - t)) - 1);
      best = _mm512_mask_max_ps(best, mask, best, scores[0][0]);
    }
    max[h] = _mm512_reduce_max_ps(best);
  }
}

void WeighColumns(const uint32_t* queries, size_t heads, size_t pairs, const uint32_t* columns, size_t stride,
                  size_t count, const float* references, uint32_t* weights, size_t weights_stride, float* sums) {
  ForEachHeads({queries, pairs, references, weights, weights_stride, sums}, heads, [&](const Weighing& w, auto num) {
    size_t t = 0;
    for (; t + 64 <= count; t += 64) WeighTile<num(), 4>(w, PackedColumns{columns + t, stride}, t, 0);
    for (; t < count; t += 16) {
      const __mmask16 mask = static_cast<__mmask16>(count - t >= 16 ? 0xffffu : (1u << (count - t)) - 1);
      WeighTile<num(), 1>(w, PackedColumns{columns + t, stride}, t, mask);
    }
  });
}

void WeighColumnRows(const uint32_t* queries, size_t heads, const bf16* first, const bf16* second, size_t row_stride,
                     const int32_t* dims, size_t rank, const float* references, uint32_t* weights,
                     size_t weights_stride, float* sums) {
  const ColumnRows columns{{first, second}, row_stride, dims, rank};
  ForEachHeads({queries, (rank + 1) / 2, references, weights, weights_stride, sums}, heads,
               [&](const Weighing& w, auto num) {
                 if (second != nullptr) {
                   WeighTile<num(), 4>(w, columns, 0, 0);
                 } else {
                   WeighTile<num(), 2>(w, columns, 0, 0);
                 }
               });
}

void SumWeights(const uint32_t* weights, size_t weights_stride, size_t head_pairs, const uint32_t* factors, size_t n,
                float* out) {
  for (size_t t = 0; t < n; t += 64) {
    const size_t vectors = std::min<size_t>(4, (n - t + 15) / 16);
    __m512 sums[4];
#pragma GCC unroll 4
    for (size_t v = 0; v < 4; ++v) sums[v] = _mm512_setzero_ps();
    for (size_t i = 0; i < head_pairs; ++i) {
      const __m512i factor = Broadcast(factors[i]);
      const uint32_t* row = weights + i * weights_stride + t;
      if (vectors == 4) {
#pragma GCC unroll 4
        for (size_t v = 0; v < 4; ++v) sums[v] = Dot(sums[v], _mm512_loadu_si512(row + 16 * v), factor);
      } else {
        for (size_t v = 0; v < vectors; ++v) sums[v] = Dot(sums[v], _mm512_loadu_si512(row + 16 * v), factor);
      }
    }
    for (size_t v = 0; v < vectors; ++v) _mm512_storeu_ps(out + t + 16 * v, sums[v]);
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
    const __m512 high = Exp2OfNegative(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i + 16), factor, shift));
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

void SumWeights(const bf16* weights, size_t weights_stride, size_t heads, const float* factors, size_t factors_stride,
                size_t n, float* out) {
  // Even and odd elements back in order, 16 at a time.
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  for (size_t t = 0; t < n; t += 32) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (size_t h = 0; h < heads; ++h) {
      const __m512i pairs = _mm512_loadu_si512(weights + h * weights_stride + t);
      const __m512 factor = _mm512_set1_ps(factors[h * factors_stride]);
      even = _mm512_fmadd_ps(EvenFloats(pairs), factor, even);
      odd = _mm512_fmadd_ps(OddFloats(pairs), factor, odd);
    }
    _mm512_storeu_ps(out + t, _mm512_permutex2var_ps(even, low, odd));
    _mm512_storeu_ps(out + t + 16, _mm512_permutex2var_ps(even, high, odd));
  }
}

void PackQuads(const float* q, size_t heads, size_t dim, uint32_t* out) {
  std::fill_n(out, QuadsOf(heads) * dim * 2, 0u);
  for (size_t h = 0; h < heads; ++h) {
    for (size_t d = 0; d < dim; d += 2) {
      const bf16 pair[2] = {ToBf16(q[h * dim + d]), ToBf16(q[h * dim + d + 1])};
      __builtin_memcpy(out + h / 4 * dim * 2 + d / 8 * 16 + h % 4 * 4 + d % 8 / 2, pair, sizeof(pair));
    }
  }
}

void ScoreRowPairs(const bf16* const* rows, size_t count, size_t dim, const uint32_t* quads, size_t heads,
                   float* scores, size_t stride) {
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

void MixRowPairs(const bf16* const* rows, size_t count, size_t dim, const bf16* weights, size_t weights_stride,
                 size_t heads, float* mix, size_t mix_stride) {
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

void PackColumnPairs(const bf16*, size_t, const int32_t*, size_t, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void PackColumnPairs(const int8_t*, const float*, size_t, const int32_t*, size_t, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void MaxOfColumns(const uint32_t*, size_t, size_t, const uint32_t*, size_t, size_t, float*) { KVASIR_CHECK(false); }
void WeighColumns(const uint32_t*, size_t, size_t, const uint32_t*, size_t, size_t, const float*, uint32_t*, size_t,
                  float*) {
  KVASIR_CHECK(false);
}
void WeighColumnRows(const uint32_t*, size_t, const bf16*, const bf16*, size_t, const int32_t*, size_t, const float*,
                     uint32_t*, size_t, float*) {
  KVASIR_CHECK(false);
}
void SumWeights(const uint32_t*, size_t, size_t, const uint32_t*, size_t, float*) { KVASIR_CHECK(false); }
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
