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
constexpr size_t kTurnedBytes = 16;

// 16 bytes of 8 keys, from the `at`th on, as four vectors of a word of each key: two dimensions of
// bf16, or four of int8.
template <typename T>
HWY_INLINE void TurnKeys(const T* const (&keys)[kTurnedKeys], size_t at, __m256i (&words)[4]) {
  __m256i rows[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto* low = reinterpret_cast<const __m128i*>(keys[i] + at);
    const auto* high = reinterpret_cast<const __m128i*>(keys[i + 4] + at);
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

// A word's dimensions, one after the other, to `take` with their place in the word.
template <typename Take>
HWY_INLINE void ForEachDim(const bf16*, __m256i word, __m256, const Take& take) {
  const Pair pair = Widen(word);
  take(0, pair.even);
  take(1, pair.odd);
}
// Bytes plus 128 become floats' mantissas, by constants: shifts and conversions are slower on
// Zen 1.
template <typename Take>
HWY_INLINE void ForEachDim(const int8_t*, __m256i word, __m256 scales, const Take& take) {
  const __m256i bytes = _mm256_xor_si256(word, _mm256_set1_epi32(static_cast<int>(0x80808080u)));
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    const int first = static_cast<int>(0x80808000u) + b;  // that byte, and zeros
    const __m256i choose = _mm256_setr_epi32(first, first + 4, first + 8, first + 12, first,
                                             first + 4, first + 8, first + 12);
    const __m256i mantissas =
        _mm256_or_si256(_mm256_shuffle_epi8(bytes, choose), _mm256_set1_epi32(0x4b000000));
    const __m256 keys =
        _mm256_sub_ps(_mm256_castsi256_ps(mantissas), _mm256_set1_ps(0x1p23f + 128));
    take(b, _mm256_mul_ps(keys, scales));
  }
}

// Of kGroups groups of 8 keys; keys past `last` repeat that one, and their scores are not stored.
// scales: int8 only.
template <int kRows, int kGroups, typename T>
HWY_INLINE void ScoreGroups(const T* keys, const float* scales, size_t last, size_t dim,
                            const T* ahead, const float* queries, float* scores,
                            size_t scores_stride) {
  constexpr size_t kTurnedDims = kTurnedBytes / sizeof(T);
  constexpr int kWordDims = 4 / sizeof(T);
  const T* rows[kGroups][kTurnedKeys];
  __m256 factors[kGroups] = {};
  for (int g = 0; g < kGroups; ++g) {
    float group[kTurnedKeys];
    for (size_t i = 0; i < kTurnedKeys; ++i) {
      const size_t key = std::min(g * kTurnedKeys + i, last);
      rows[g][i] = keys + key * dim;
      if (scales != nullptr) group[i] = scales[key];
    }
    if (scales != nullptr) factors[g] = _mm256_loadu_ps(group);
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
      const T* const lines = ahead + g * kTurnedKeys * dim + d * kTurnedKeys;
      __builtin_prefetch(lines);
      __builtin_prefetch(lines + 64 / sizeof(T));
      __m256i words[4];
      TurnKeys(rows[g], d, words);
#pragma GCC unroll 4
      for (int w = 0; w < 4; ++w) {
        const float* const query = queries + d + kWordDims * w;
        ForEachDim(keys, words[w], factors[g], [&](int i, __m256 key) HWY_ATTR {
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
            sums[r][g] = _mm256_fmadd_ps(_mm256_broadcast_ss(query + r * dim + i), key, sums[r][g]);
          }
        });
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

template <typename T>
HWY_INLINE void ScoreKeys(const T* keys, const float* scales, size_t count, size_t dim,
                          const T* ahead, const float* queries, size_t rows, float* scores,
                          size_t scores_stride) {
  ForRowBlocks<kStreamRows>(rows, [=]<int kRows>(size_t row) HWY_ATTR {
    // Enough sums to hide the latency of an addition.
    constexpr int kGroups = kRows == 1 ? 4 : 2;
    const float* const q = queries + row * dim;
    float* const to = scores + row * scores_stride;
    const auto scales_at = [=](size_t t) { return scales == nullptr ? nullptr : scales + t; };
    size_t t = 0;
    for (; t + kGroups * kTurnedKeys <= count; t += kGroups * kTurnedKeys) {
      ScoreGroups<kRows, kGroups>(keys + t * dim, scales_at(t), kGroups * kTurnedKeys - 1, dim,
                                  ahead + t * dim, q, to + t, scores_stride);
    }
    for (; t < count; t += kTurnedKeys) {
      ScoreGroups<kRows, 1>(keys + t * dim, scales_at(t), std::min(count - t, kTurnedKeys) - 1, dim,
                            ahead + t * dim, q, to + t, scores_stride);
    }
  });
}

void StreamKeysBf16(const bf16* keys, size_t count, size_t dim, const bf16* ahead,
                    const float* queries, size_t rows, float* scores, size_t scores_stride) {
  ScoreKeys(keys, nullptr, count, dim, ahead, queries, rows, scores, scores_stride);
}
void StreamKeysInt8(const int8_t* keys, const float* scales, size_t count, size_t dim,
                    const int8_t* ahead, const float* queries, size_t rows, float* scores,
                    size_t scores_stride) {
  ScoreKeys(keys, scales, count, dim, ahead, queries, rows, scores, scores_stride);
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

void StreamValuesBf16(const bf16* values, size_t count, size_t stride, size_t dim,
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

// Columns [0, 8 * kVectors) of the mix.
template <int kRows, int kVectors>
HWY_INLINE void MixByteColumns(const int8_t* values, const float* scales, size_t count,
                               size_t stride, const int8_t* ahead, const float* weights,
                               size_t weights_stride, float* mix, size_t mix_stride) {
  __m256 sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_loadu_ps(mix + r * mix_stride + v * 8);
  }
  for (size_t t = 0; t < count; ++t) {
    __builtin_prefetch(ahead + t * stride);
    const __m256 scale = _mm256_broadcast_ss(scales + t);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto* const from = reinterpret_cast<const __m128i*>(values + t * stride + v * 8);
      const __m256 eight = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from)));
      const __m256 value = _mm256_mul_ps(eight, scale);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m256 weight = _mm256_broadcast_ss(weights + r * weights_stride + t);
        sums[r][v] = _mm256_fmadd_ps(weight, value, sums[r][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) _mm256_storeu_ps(mix + r * mix_stride + v * 8, sums[r][v]);
  }
}

void StreamValuesInt8(const int8_t* values, const float* scales, size_t count, size_t stride,
                      size_t dim, const int8_t* ahead, const float* weights, size_t weights_stride,
                      size_t rows, float* mix, size_t mix_stride) {
  ForRowBlocks<kStreamRows>(rows, [=]<int kRows>(size_t row) HWY_ATTR {
    constexpr int kVectors = kRows == 1 ? 8 : kRows == 2 ? 4 : 2;
    const float* const w = weights + row * weights_stride;
    float* const to = mix + row * mix_stride;
    size_t d = 0;
    for (; d + kVectors * 8 <= dim; d += kVectors * 8) {
      MixByteColumns<kRows, kVectors>(values + d, scales, count, stride, ahead + d, w,
                                      weights_stride, to + d, mix_stride);
    }
    for (; d < dim; d += 8) {
      MixByteColumns<kRows, 1>(values + d, scales, count, stride, ahead + d, w, weights_stride,
                               to + d, mix_stride);
    }
  });
}

bool StreamsHere() { return true; }

#else

void StreamKeysBf16(const bf16*, size_t, size_t, const bf16*, const float*, size_t, float*,
                    size_t) {
  KVASIR_CHECK(false);
}
void StreamValuesBf16(const bf16*, size_t, size_t, size_t, const bf16*, const float*, size_t,
                      size_t, float*, size_t) {
  KVASIR_CHECK(false);
}
void StreamKeysInt8(const int8_t*, const float*, size_t, size_t, const int8_t*, const float*,
                    size_t, float*, size_t) {
  KVASIR_CHECK(false);
}
void StreamValuesInt8(const int8_t*, const float*, size_t, size_t, size_t, const int8_t*,
                      const float*, size_t, size_t, float*, size_t) {
  KVASIR_CHECK(false);
}
bool StreamsHere() { return false; }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(StreamKeysBf16);
HWY_EXPORT(StreamValuesBf16);
HWY_EXPORT(StreamKeysInt8);
HWY_EXPORT(StreamValuesInt8);
HWY_EXPORT(StreamsHere);

bool StreamsF32(size_t rows, size_t k_dim, size_t v_dim) {
  return rows <= kMaxF32StreamedRows && k_dim % 16 == 0 && v_dim % 16 == 0 &&
         HWY_DYNAMIC_DISPATCH(StreamsHere)();
}

void StreamKeys(const bf16* keys, size_t count, size_t dim, const void* ahead, const float* queries,
                size_t rows, float* scores, size_t scores_stride) {
  const auto* const next = ahead == nullptr ? keys : static_cast<const bf16*>(ahead);
  HWY_DYNAMIC_DISPATCH(StreamKeysBf16)
  (keys, count, dim, next, queries, rows, scores, scores_stride);
}

void StreamValues(const bf16* values, size_t count, size_t stride, size_t dim, const void* ahead,
                  const float* weights, size_t weights_stride, size_t rows, float* mix,
                  size_t mix_stride) {
  const auto* const next = ahead == nullptr ? values : static_cast<const bf16*>(ahead);
  HWY_DYNAMIC_DISPATCH(StreamValuesBf16)
  (values, count, stride, dim, next, weights, weights_stride, rows, mix, mix_stride);
}

void StreamKeys(const int8_t* keys, const float* scales, size_t count, size_t dim,
                const void* ahead, const float* queries, size_t rows, float* scores,
                size_t scores_stride) {
  const auto* const next = ahead == nullptr ? keys : static_cast<const int8_t*>(ahead);
  HWY_DYNAMIC_DISPATCH(StreamKeysInt8)
  (keys, scales, count, dim, next, queries, rows, scores, scores_stride);
}

void StreamValues(const int8_t* values, const float* scales, size_t count, size_t stride,
                  size_t dim, const void* ahead, const float* weights, size_t weights_stride,
                  size_t rows, float* mix, size_t mix_stride) {
  const auto* const next = ahead == nullptr ? values : static_cast<const int8_t*>(ahead);
  HWY_DYNAMIC_DISPATCH(StreamValuesInt8)
  (values, scales, count, stride, dim, next, weights, weights_stride, rows, mix, mix_stride);
}

}  // namespace kvasir
#endif  // HWY_ONCE
