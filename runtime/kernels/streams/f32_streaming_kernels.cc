#include "runtime/kernels/streams/f32_streaming_kernels.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/streams/f32_streaming_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/row_blocks.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX2

// Rows whose sums share the registers: 8 sums, 4 words of keys, a mask, a factor and what is
// between them.
constexpr int kStreamRows = 4;

struct Pair {
  __m256 even, odd;
};
HWY_INLINE Pair Widen(__m256i words) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(-65536)))};
}

constexpr size_t kTurnedKeys = 8;
constexpr size_t kTurnedDims = 8;

// Dimensions [0, 8) of 8 keys as four vectors of words, each two dimensions of all keys.
HWY_INLINE void TurnKeys(const bf16* const (&keys)[kTurnedKeys], size_t dim, __m256i (&words)[4]) {
  __m256i rows[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto* low = reinterpret_cast<const __m128i*>(keys[i] + dim);
    const auto* high = reinterpret_cast<const __m128i*>(keys[i + 4] + dim);
    rows[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)),
                                      _mm_loadu_si128(high), 1);
  }
  const __m256i low01 = _mm256_unpacklo_epi32(rows[0], rows[1]);
  const __m256i high01 = _mm256_unpackhi_epi32(rows[0], rows[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(rows[2], rows[3]);
  const __m256i high23 = _mm256_unpackhi_epi32(rows[2], rows[3]);
  words[0] = _mm256_unpacklo_epi64(low01, low23);
  words[1] = _mm256_unpackhi_epi64(low01, low23);
  words[2] = _mm256_unpacklo_epi64(high01, high23);
  words[3] = _mm256_unpackhi_epi64(high01, high23);
}

// Of kGroups groups of 8 keys; keys past `last` repeat that one, and their scores are not stored.
template <int kRows, int kGroups>
HWY_INLINE void ScoreGroups(const bf16* keys, size_t last, size_t dim, const bf16* ahead,
                            const float* queries, float* scores, size_t scores_stride) {
  const bf16* rows[kGroups][kTurnedKeys];
  for (int g = 0; g < kGroups; ++g) {
    for (size_t i = 0; i < kTurnedKeys; ++i)
      rows[g][i] = keys + std::min(g * kTurnedKeys + i, last) * dim;
  }
  __m256 sums[kRows][kGroups];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) sums[r][g] = _mm256_setzero_ps();
  }
  for (size_t d = 0; d < dim; d += kTurnedDims) {
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
      // As many lines as are read here.
      const bf16* const lines = ahead + g * kTurnedKeys * dim + d * kTurnedKeys;
      __builtin_prefetch(lines);
      __builtin_prefetch(lines + 32);
      __m256i words[4];
      TurnKeys(rows[g], d, words);
#pragma GCC unroll 4
      for (int w = 0; w < 4; ++w) {
        const Pair pair = Widen(words[w]);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const float* const query = queries + r * dim + d + 2 * w;
          sums[r][g] = _mm256_fmadd_ps(_mm256_broadcast_ss(query), pair.even, sums[r][g]);
          sums[r][g] = _mm256_fmadd_ps(_mm256_broadcast_ss(query + 1), pair.odd, sums[r][g]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int g = 0; g < kGroups; ++g) {
      float* const to = scores + r * scores_stride + g * kTurnedKeys;
      if ((g + 1) * kTurnedKeys <= last + 1) {
        _mm256_storeu_ps(to, sums[r][g]);
      } else {
        float values[kTurnedKeys];
        _mm256_storeu_ps(values, sums[r][g]);
        std::copy_n(values, last + 1 - g * kTurnedKeys, to);
      }
    }
  }
}

void StreamKeysAvx2(const bf16* keys, size_t count, size_t dim, const bf16* ahead,
                    const float* queries, size_t rows, float* scores, size_t scores_stride) {
  ForRowBlocks<kStreamRows>(rows, [=]<int kRows>(size_t row) HWY_ATTR {
    // Enough sums to hide the latency of an addition.
    constexpr int kGroups = kRows == 1 ? 4 : 2;
    const float* const q = queries + row * dim;
    float* const to = scores + row * scores_stride;
    size_t t = 0;
    for (; t + kGroups * kTurnedKeys <= count; t += kGroups * kTurnedKeys) {
      ScoreGroups<kRows, kGroups>(keys + t * dim, kGroups * kTurnedKeys - 1, dim, ahead + t * dim,
                                  q, to + t, scores_stride);
    }
    for (; t < count; t += kTurnedKeys) {
      ScoreGroups<kRows, 1>(keys + t * dim, std::min(count - t, kTurnedKeys) - 1, dim,
                            ahead + t * dim, q, to + t, scores_stride);
    }
  });
}

// Columns [0, 16 * kPairs) of the mix, whose sums stay in registers as even and odd columns.
template <int kRows, int kPairs>
HWY_INLINE void MixColumns16(const bf16* values, size_t count, size_t stride, const bf16* ahead,
                             const float* weights, size_t weights_stride, float* mix,
                             size_t mix_stride) {
  Pair sums[kRows][kPairs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) {
      const float* const from = mix + r * mix_stride + p * 16;
      const __m256 a = _mm256_loadu_ps(from), b = _mm256_loadu_ps(from + 8);
      const __m256 low = _mm256_permute2f128_ps(a, b, 0x20);
      const __m256 high = _mm256_permute2f128_ps(a, b, 0x31);
      sums[r][p] = {_mm256_shuffle_ps(low, high, 0x88), _mm256_shuffle_ps(low, high, 0xdd)};
    }
  }
  for (size_t t = 0; t < count; ++t) {
    __builtin_prefetch(ahead + t * stride);
    if constexpr (kPairs > 2) __builtin_prefetch(ahead + t * stride + 32);
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) {
      const auto* const from = reinterpret_cast<const __m256i*>(values + t * stride + p * 16);
      const Pair pair = Widen(_mm256_loadu_si256(from));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m256 weight = _mm256_broadcast_ss(weights + r * weights_stride + t);
        sums[r][p].even = _mm256_fmadd_ps(weight, pair.even, sums[r][p].even);
        sums[r][p].odd = _mm256_fmadd_ps(weight, pair.odd, sums[r][p].odd);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) {
      float* const to = mix + r * mix_stride + p * 16;
      const __m256 low = _mm256_unpacklo_ps(sums[r][p].even, sums[r][p].odd);
      const __m256 high = _mm256_unpackhi_ps(sums[r][p].even, sums[r][p].odd);
      _mm256_storeu_ps(to, _mm256_permute2f128_ps(low, high, 0x20));
      _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(low, high, 0x31));
    }
  }
}

void StreamValuesAvx2(const bf16* values, size_t count, size_t stride, size_t dim,
                      const bf16* ahead, const float* weights, size_t weights_stride, size_t rows,
                      float* mix, size_t mix_stride) {
  ForRowBlocks<kStreamRows>(rows, [=]<int kRows>(size_t row) HWY_ATTR {
    constexpr int kPairs = kRows == 1 ? 4 : kRows == 2 ? 2 : 1;
    const float* const w = weights + row * weights_stride;
    float* const to = mix + row * mix_stride;
    size_t d = 0;
    for (; d + kPairs * 16 <= dim; d += kPairs * 16) {
      MixColumns16<kRows, kPairs>(values + d, count, stride, ahead + d, w, weights_stride, to + d,
                                  mix_stride);
    }
    for (; d < dim; d += 16) {
      MixColumns16<kRows, 1>(values + d, count, stride, ahead + d, w, weights_stride, to + d,
                             mix_stride);
    }
  });
}

bool StreamsHere() { return true; }

#else

void StreamKeysAvx2(const bf16*, size_t, size_t, const bf16*, const float*, size_t, float*,
                    size_t) {
  KVASIR_CHECK(false);
}
void StreamValuesAvx2(const bf16*, size_t, size_t, size_t, const bf16*, const float*, size_t,
                      size_t, float*, size_t) {
  KVASIR_CHECK(false);
}
bool StreamsHere() { return false; }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(StreamKeysAvx2);
HWY_EXPORT(StreamValuesAvx2);
HWY_EXPORT(StreamsHere);

bool StreamsF32(size_t rows, size_t k_dim, size_t v_dim) {
  return rows <= kMaxF32StreamedRows && k_dim % 8 == 0 && v_dim % 16 == 0 &&
         HWY_DYNAMIC_DISPATCH(StreamsHere)();
}

void StreamKeys(const bf16* keys, size_t count, size_t dim, const void* ahead, const float* queries,
                size_t rows, float* scores, size_t scores_stride) {
  const auto* const next = ahead == nullptr ? keys : static_cast<const bf16*>(ahead);
  HWY_DYNAMIC_DISPATCH(StreamKeysAvx2)
  (keys, count, dim, next, queries, rows, scores, scores_stride);
}

void StreamValues(const bf16* values, size_t count, size_t stride, size_t dim, const void* ahead,
                  const float* weights, size_t weights_stride, size_t rows, float* mix,
                  size_t mix_stride) {
  const auto* const next = ahead == nullptr ? values : static_cast<const bf16*>(ahead);
  HWY_DYNAMIC_DISPATCH(StreamValuesAvx2)
  (values, count, stride, dim, next, weights, weights_stride, rows, mix, mix_stride);
}

}  // namespace kvasir
#endif  // HWY_ONCE
