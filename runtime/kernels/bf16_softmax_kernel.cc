#include "base/check.h"
#include "hwy/highway.h"
#include "runtime/kernels/bf16_attention_kernels.h"

#if HWY_ARCH_X86_64

#include <algorithm>
#include <limits>

#include "runtime/kernels/avx512_bf16-inl.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {
using namespace avx512;

// Which of the 16 positions from `first` on are below `count`.
inline __mmask16 Positions(size_t first, size_t count) { return FirstLanes(count - first); }

inline __m512 MinusInfinity() { return _mm512_set1_ps(-std::numeric_limits<float>::infinity()); }

// 2^x for x <= 0 or a little above, 0 far below. The polynomial's relative error on [0, 1) is 3e-6,
// far below bf16's 2^-9. VREDUCEPS makes 0 of infinity, and VSCALEFPS takes the whole part itself.
inline __m512 Weight(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.01342668606f), _mm512_set1_ps(0.05224247018f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(0.2412802076f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(0.6930448443f));
  p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);
}

}  // namespace

RowStatistics SoftmaxRowBf16(const float* scores, size_t count, size_t padded, float scale,
                             bf16* weights) {
  const auto load = [=](size_t i) {
    return _mm512_mask_loadu_ps(MinusInfinity(), Positions(i, count), scores + i);
  };
  const size_t whole = count / 64 * 64;
  __m512 max0 = MinusInfinity(), max1 = max0, max2 = max0, max3 = max0;
  size_t i = 0;
  for (; i < whole; i += 64) {  // four chains, for the latency of a maximum
    max0 = _mm512_max_ps(max0, _mm512_loadu_ps(scores + i));
    max1 = _mm512_max_ps(max1, _mm512_loadu_ps(scores + i + 16));
    max2 = _mm512_max_ps(max2, _mm512_loadu_ps(scores + i + 32));
    max3 = _mm512_max_ps(max3, _mm512_loadu_ps(scores + i + 48));
  }
  for (; i < count; i += 16) max0 = _mm512_max_ps(max0, load(i));
  const float max = scale * _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(max0, max1),
                                                               _mm512_max_ps(max2, max3)));

  const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(max);
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
  // Stores 32 weights as bf16 and adds them as rounded: multiplied by one, in pairs.
  const auto store = [&](__m512 low, __m512 high, size_t at, __m512& sum) {
    const __m512 x0 = Weight(_mm512_fmsub_ps(low, factor, shift));
    const __m512 x1 = Weight(_mm512_fmsub_ps(high, factor, shift));
    const __m512bh narrow = _mm512_cvtne2ps_pbh(x1, x0);
    _mm512_storeu_si512(weights + at, (__m512i)narrow);
    sum = _mm512_dpbf16_ps(sum, narrow, ones);
  };
  for (i = 0; i < whole; i += 64) {
    store(_mm512_loadu_ps(scores + i), _mm512_loadu_ps(scores + i + 16), i, sum0);
    store(_mm512_loadu_ps(scores + i + 32), _mm512_loadu_ps(scores + i + 48), i + 32, sum1);
  }
  for (; i + 16 < count; i += 32) store(load(i), load(i + 16), i, sum0);
  if (i < count) {  // half a step more: `weights` may end there
    const __m256i narrow =
        (__m256i)_mm512_cvtneps_pbh(Weight(_mm512_fmsub_ps(load(i), factor, shift)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + i), narrow);
    sum0 = _mm512_dpbf16_ps(sum0, (__m512bh)_mm512_zextsi256_si512(narrow), ones);
    i += 16;
  }
  std::fill(weights + i, weights + padded, bf16{0});
  return {max, _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1))};
}

namespace {

// Whole vectors, then the last one with its mask: a mask for each would cost as much again.
// Returns the largest score.
inline float Score(const int32_t* dots, int32_t offset, size_t count, float scale,
                   const float* key_scales, float* scores) {
  const size_t whole = count / 16 * 16;
  const __mmask16 all = 0xffff, rest = Positions(whole, count);
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512i zero_point = _mm512_set1_epi32(offset);
  __m512 max0 = MinusInfinity(), max1 = max0;
  const auto score = [&](size_t i, __mmask16 mask, __m512& largest) {
    const __m512 dot =
        _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(dots + i), zero_point));
    const __m512 step = _mm512_mul_ps(_mm512_loadu_ps(key_scales + i), factor);
    const __m512 product = _mm512_mask_mul_ps(MinusInfinity(), mask, dot, step);
    _mm512_storeu_ps(scores + i, product);
    largest = _mm512_max_ps(largest, product);
  };
  size_t i = 0;
  for (; i + 32 <= whole; i += 32) {
    score(i, all, max0);
    score(i + 16, all, max1);
  }
  if (i < whole) score(i, all, max0);
  if (rest != 0) score(whole, rest, max1);
  return _mm512_reduce_max_ps(_mm512_max_ps(max0, max1));
}

// From base-2 scores, -infinity beyond `count`, the largest of which is `max`.
inline Int8RowStatistics Weigh(float max, size_t count, size_t padded, const float* value_scales,
                               float* scores, int16_t* weights) {
  const size_t whole = count / 16 * 16;
  const __mmask16 all = 0xffff, rest = Positions(whole, count);
  const __m512 shift = _mm512_set1_ps(max);
  __m512 sum = _mm512_setzero_ps(), largest = sum;
  const auto weigh = [&](size_t i, __mmask16 mask) {
    const __m512 weight = Weight(_mm512_sub_ps(_mm512_loadu_ps(scores + i), shift));
    sum = _mm512_add_ps(sum, weight);
    const __m512 scaled = _mm512_mul_ps(weight, _mm512_maskz_loadu_ps(mask, value_scales + i));
    _mm512_storeu_ps(scores + i, scaled);
    largest = _mm512_max_ps(largest, scaled);
  };
  size_t i = 0;
#pragma GCC unroll 4
  for (; i < whole; i += 16) weigh(i, all);
  if (rest != 0) weigh(whole, rest);

  constexpr float kSteps = 32767;
  constexpr float kNothing = 1e-30f;  // below, the number of steps per unit would overflow
  float top = _mm512_reduce_max_ps(largest);
  if (!(top > kNothing)) top = 0.0f;
  const __m512 steps = _mm512_set1_ps(top > 0.0f ? kSteps / top : 0.0f);
#pragma GCC unroll 2
  for (i = 0; i < count; i += 16) {
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(scores + i), steps));
    // Saturating: the largest may round to one step too many.
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + i), _mm512_cvtsepi32_epi16(rounded));
  }
  std::fill(weights + i, weights + padded, int16_t{0});
  return {{max, _mm512_reduce_add_ps(sum)}, top / kSteps};
}

}  // namespace

Int8RowStatistics SoftmaxRowInt8(const int32_t* dots, int32_t offset, size_t count, size_t padded,
                                 float scale, const float* key_scales, const float* value_scales,
                                 float* scores, int16_t* weights) {
  const float max = Score(dots, offset, count, scale, key_scales, scores);
  return Weigh(max, count, padded, value_scales, scores, weights);
}

void ScoreRowInt8(const int32_t* dots, int32_t offset, size_t count, float scale,
                  const float* key_scales, float* scores) {
  Score(dots, offset, count, scale, key_scales, scores);
}

Int8RowStatistics WeighRowInt8(size_t count, size_t padded, const float* value_scales,
                               float* scores, int16_t* weights) {
  __m512 max = MinusInfinity();
  for (size_t i = 0; i < count; i += 16) max = _mm512_max_ps(max, _mm512_loadu_ps(scores + i));
  return Weigh(_mm512_reduce_max_ps(max), count, padded, value_scales, scores, weights);
}

}  // namespace kvasir
KVASIR_AVX512_BF16_END

#else  // no such instructions: HasBf16Products() says so, and nobody calls these

namespace kvasir {

RowStatistics SoftmaxRowBf16(const float*, size_t, size_t, float, bf16*) {
  KVASIR_CHECK(false);
  return {};
}
Int8RowStatistics SoftmaxRowInt8(const int32_t*, int32_t, size_t, size_t, float, const float*,
                                 const float*, float*, int16_t*) {
  KVASIR_CHECK(false);
  return {};
}
void ScoreRowInt8(const int32_t*, int32_t, size_t, float, const float*, float*) {
  KVASIR_CHECK(false);
}
Int8RowStatistics WeighRowInt8(size_t, size_t, const float*, float*, int16_t*) {
  KVASIR_CHECK(false);
  return {};
}

}  // namespace kvasir
#endif
