#include "hwy/highway.h"
#include "kvcache/check.h"
#include "runtime/kernels/bf16_attention_kernels.h"

#if HWY_ARCH_X86_64

#include <algorithm>
#include <limits>

#include "runtime/kernels/avx512_bf16-inl.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {
using namespace avx512;

// Fills the padding of the last group with -infinity, and returns the padded count.
inline size_t MaskTail(float* scores, size_t count) {
  const size_t columns = RoundUpColumns(count);
  for (size_t i = count; i < columns; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  return columns;
}

inline float MaxOf(const float* scores, size_t columns) {
  __m512 max = _mm512_loadu_ps(scores);
  for (size_t i = 16; i < columns; i += 16) max = _mm512_max_ps(max, _mm512_loadu_ps(scores + i));
  return _mm512_reduce_max_ps(max);
}

// 2^x for x <= 0, 0 below 2^-150. The polynomial's relative error is 3e-6, far below bf16's 2^-9.
inline __m512 Weight(__m512 x) {
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

// Stores 16 weights as bf16 and returns them as rounded.
inline __m512 StoreWeights(__m512 weights, bf16* to) {
  const __m256i narrow = (__m256i)_mm512_cvtneps_pbh(weights);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

}  // namespace

RowStatistics SoftmaxRowBf16(float* scores, size_t count, size_t padded, float scale,
                             bf16* weights) {
  const size_t columns = MaskTail(scores, count);
  const float max = scale * MaxOf(scores, columns);
  const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(max);
  __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
  const auto weigh = [&](size_t i) {
    return StoreWeights(Weight(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), factor, shift)),
                        weights + i);
  };
  size_t i = 0;
  for (; i + 64 <= columns; i += 64) {  // four chains, for the latency of the polynomial
    const __m512 w0 = weigh(i), w1 = weigh(i + 16), w2 = weigh(i + 32), w3 = weigh(i + 48);
    sum0 = _mm512_add_ps(sum0, _mm512_add_ps(w0, w1));
    sum1 = _mm512_add_ps(sum1, _mm512_add_ps(w2, w3));
  }
  for (; i < columns; i += 16) sum0 = _mm512_add_ps(sum0, weigh(i));
  std::fill(weights + columns, weights + padded, bf16{0});
  return {max, _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1))};
}

RowStatistics SoftmaxRowBf16(float* scores, size_t count, size_t padded, float scale,
                             const float* key_scales, const float* value_scales, bf16* weights) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (size_t i = 0; i < RoundUpColumns(count); i += 16) {
    const __m512 both = _mm512_mul_ps(_mm512_loadu_ps(key_scales + i), factor);
    _mm512_storeu_ps(scores + i, _mm512_mul_ps(_mm512_loadu_ps(scores + i), both));
  }
  const size_t columns = MaskTail(scores, count);
  const float max = MaxOf(scores, columns);
  const __m512 shift = _mm512_set1_ps(max);
  __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (size_t i = 0; i < columns; i += 16) {
    const __m512 w = Weight(_mm512_sub_ps(_mm512_loadu_ps(scores + i), shift));
    StoreWeights(_mm512_mul_ps(w, _mm512_loadu_ps(value_scales + i)), weights + i);
    sum = _mm512_add_ps(sum, w);
  }
  std::fill(weights + columns, weights + padded, bf16{0});
  return {max, _mm512_reduce_add_ps(sum)};
}

}  // namespace kvasir
KVASIR_AVX512_BF16_END

#else  // no such instructions: HasBf16Products() says so, and nobody calls these

namespace kvasir {

RowStatistics SoftmaxRowBf16(float*, size_t, size_t, float, bf16*) {
  KVASIR_CHECK(false);
  return {};
}
RowStatistics SoftmaxRowBf16(float*, size_t, size_t, float, const float*, const float*, bf16*) {
  KVASIR_CHECK(false);
  return {};
}

}  // namespace kvasir
#endif
