// Ranking: packed columns, weights of whole query groups.
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

// The bits of a bf16 that is near 2^x are 128 (x + 127): exponent and mantissa in one number, which
// is linear in x where it should be a power. What is too much, by the upper 6 of the mantissa's 7
// bits.
struct PowerTables {
  alignas(64) uint16_t excess[64];
  alignas(64) uint8_t in_pairs[64];  // [lane][4 words, 4 words] to [lane][4 pairs]
};

constexpr PowerTables MakePowerTables() {
  PowerTables tables{};
  constexpr double kLn2 = 0.6931471805599453;
  for (int i = 0; i < 64; ++i) {
    const double fraction =
        (2 * i + 0.5) / kLogitUnits;  // between the two mantissas that share an entry
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

// Pairs (2^a[t], 2^b[t]) of exponents that are given as said above. Those too small become 0, those
// too large infinite.
inline __m512i PairsOfPowers(__m512 a, __m512 b) {
  const __m512i infinity = _mm512_set1_epi16(0x7f80);
  __m512i words = _mm512_packus_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
  words = _mm512_min_epu16(words, infinity);
  const __m512i excess =
      _mm512_permutex2var_epi16(_mm512_load_si512(kPowers.excess), _mm512_srli_epi16(words, 1),
                                _mm512_load_si512(kPowers.excess + 32));
  return _mm512_shuffle_epi8(_mm512_sub_epi16(words, excess), _mm512_load_si512(kPowers.in_pairs));
}

// Columns that were packed: words [pairs][stride].
struct PackedColumns {
  const uint32_t* words;
  size_t stride;

  template <size_t kVectors>
  void Load(size_t pair, __m512i (&out)[kVectors]) const {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v)
      out[v] = _mm512_loadu_si512(words + pair * stride + 16 * v);
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
    const size_t first = dims[2 * pair] * row_stride,
                 second = paired ? dims[2 * pair + 1] * row_stride : 0;
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
inline void ScorePairs(const uint32_t* queries, size_t pairs, const Columns& columns,
                       const float (&start)[kNum], __m512 (&sums)[kNum][kVectors]) {
#pragma GCC unroll 16
  for (size_t i = 0; i < kNum * kVectors; ++i)
    sums[i / kVectors][i % kVectors] = _mm512_set1_ps(start[i / kVectors]);
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
    return {queries + head * pairs, pairs,
            references + head,      weights + head / 2 * weights_stride,
            weights_stride,         sums + 16 * head};
  }
};

// Weights of kNum heads, an even number, for kVectors vectors of columns, those from position t on;
// those outside `mask` are 0.
template <size_t kNum, size_t kVectors, class Columns>
inline void WeighTile(const Weighing& w, const Columns& columns, size_t t, __mmask16 mask) {
  constexpr float kExponentOfOne = 127 * kLogitUnits;
  float start[kNum];
  for (size_t h = 0; h < kNum; ++h) start[h] = kExponentOfOne - w.references[h];
  __m512 exponents[kNum][kVectors];
  ScorePairs(w.queries, w.pairs, columns, start, exponents);
  const __m512i first = Broadcast(0x00003f80u),
                second = Broadcast(0x3f800000u);  // pairs (1, 0) and (0, 1)
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

// 16 int8 as f32 bits, scaled, and rounded so that the upper half is the bf16.
inline __m512i ScaledInt8(const int8_t* from, __m512 scale) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), scale);
  return _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
}

}  // namespace

void PackColumnPairs(const bf16* columns, size_t count, const int32_t* dims, size_t rank,
                     uint32_t* out, size_t out_stride) {
  for (size_t i = 0; i < rank; i += 2, out += out_stride) {
    const size_t first = dims[i] * count;
    const bool paired = i + 1 < rank;
    const size_t second = paired ? dims[i + 1] * count : first;
    for (size_t t = 0; t < count; t += 32) {
      const bool whole = t + 32 <= count;
      const __m512i a =
          whole ? _mm512_loadu_si512(columns + first + t) : LoadHalf(columns + first + t);
      __m512i b = _mm512_setzero_si512();
      if (paired)
        b = whole ? _mm512_loadu_si512(columns + second + t) : LoadHalf(columns + second + t);
      const Interleaved both = Interleave(a, b);
      _mm512_storeu_si512(out + t, both.low);
      if (whole) _mm512_storeu_si512(out + t + 16, both.high);
    }
  }
}

void PackColumnPairs(const int8_t* columns, const float* scales, size_t count, const int32_t* dims,
                     size_t rank, uint32_t* out, size_t out_stride) {
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

void MaxOfColumns(const uint32_t* queries, size_t heads, size_t pairs, const uint32_t* columns,
                  size_t stride, size_t count, float* max) {
  for (size_t h = 0; h < heads; ++h) {
    __m512 best = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (size_t t = 0; t < count; t += 16) {
      const float start[1] = {0};
      __m512 scores[1][1];
      ScorePairs(queries + h * pairs, pairs, PackedColumns{columns + t, stride}, start, scores);
      const __mmask16 mask = FirstLanes(count - t);
      best = _mm512_mask_max_ps(best, mask, best, scores[0][0]);
    }
    max[h] = _mm512_reduce_max_ps(best);
  }
}

void WeighColumns(const uint32_t* queries, size_t heads, size_t pairs, const uint32_t* columns,
                  size_t stride, size_t count, const float* references, uint32_t* weights,
                  size_t weights_stride, float* sums) {
  ForEachHeads({queries, pairs, references, weights, weights_stride, sums}, heads,
               [&](const Weighing& w, auto num) {
                 size_t t = 0;
                 for (; t + 64 <= count; t += 64)
                   WeighTile<num(), 4>(w, PackedColumns{columns + t, stride}, t, 0);
                 for (; t < count; t += 16) {
                   const __mmask16 mask = FirstLanes(count - t);
                   WeighTile<num(), 1>(w, PackedColumns{columns + t, stride}, t, mask);
                 }
               });
}

void WeighColumnRows(const uint32_t* queries, size_t heads, const bf16* first, const bf16* second,
                     size_t row_stride, const int32_t* dims, size_t rank, const float* references,
                     uint32_t* weights, size_t weights_stride, float* sums) {
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

void SumWeights(const uint32_t* weights, size_t weights_stride, size_t head_pairs,
                const uint32_t* factors, size_t n, float* out) {
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
        for (size_t v = 0; v < 4; ++v)
          sums[v] = Dot(sums[v], _mm512_loadu_si512(row + 16 * v), factor);
      } else {
        for (size_t v = 0; v < vectors; ++v)
          sums[v] = Dot(sums[v], _mm512_loadu_si512(row + 16 * v), factor);
      }
    }
    for (size_t v = 0; v < vectors; ++v) _mm512_storeu_ps(out + t + 16 * v, sums[v]);
  }
}

}  // namespace kvasir
KVASIR_AVX512_BF16_END

#else  // no such instructions: HasBf16Products() says so, and nobody calls these

namespace kvasir {

void PackColumnPairs(const bf16*, size_t, const int32_t*, size_t, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void PackColumnPairs(const int8_t*, const float*, size_t, const int32_t*, size_t, uint32_t*,
                     size_t) {
  KVASIR_CHECK(false);
}
void MaxOfColumns(const uint32_t*, size_t, size_t, const uint32_t*, size_t, size_t, float*) {
  KVASIR_CHECK(false);
}
void WeighColumns(const uint32_t*, size_t, size_t, const uint32_t*, size_t, size_t, const float*,
                  uint32_t*, size_t, float*) {
  KVASIR_CHECK(false);
}
void WeighColumnRows(const uint32_t*, size_t, const bf16*, const bf16*, size_t, const int32_t*,
                     size_t, const float*, uint32_t*, size_t, float*) {
  KVASIR_CHECK(false);
}
void SumWeights(const uint32_t*, size_t, size_t, const uint32_t*, size_t, float*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir
#endif
