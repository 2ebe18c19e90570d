#include "hwy/highway.h"
#include "kvcache/check.h"
#include "runtime/kernels/bf16_attention_kernels.h"

#if HWY_ARCH_X86_64

#include <algorithm>

#include "runtime/kernels/avx512_bf16-inl.h"
#include "runtime/kernels/row_blocks.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {
using namespace avx512;

template <int kRows, typename T>
void ScoreRows(const T* keys, size_t count, size_t dim, const T* ahead, const uint32_t* queries,
               float* scores, size_t scores_stride) {
  const size_t pairs = dim / 2;
  for (size_t t = 0; t < count; t += 16) {
    __m512 sums[kRows];
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) sums[r] = _mm512_setzero_ps();
    for (size_t d = 0; d < dim; d += 32) {
      const size_t offset = t * dim + d;
      const size_t width = std::min<size_t>(32, dim - d);
      __m512i column[16];
      // A group's 16 rows are contiguous; each 32 of their dimensions prefetch as many lines as
      // they read.
      const T* group_ahead = ahead == nullptr ? nullptr : ahead + t * dim + 16 * d;
      LoadKeyColumns(keys + offset, count - t, dim, width, column);
      const uint32_t* query = queries + d / 2;
      // Whole: all 16 columns stay in registers. The columns past the last dimension are zeros, but
      // multiplying by them would read past the query.
      if (width == 32) {
#pragma GCC unroll 16
        for (int word = 0; word < 16; ++word) {
          PrefetchLine(group_ahead, word);
#pragma GCC unroll 12
          for (int r = 0; r < kRows; ++r) {
            const __m512i factor = _mm512_set1_epi32(static_cast<int>(query[r * pairs + word]));
            sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)column[word], (__m512bh)factor);
          }
        }
      } else {
        for (size_t word = 0; word < width / 2; ++word) {
#pragma GCC unroll 12
          for (int r = 0; r < kRows; ++r) {
            const __m512i factor = _mm512_set1_epi32(static_cast<int>(query[r * pairs + word]));
            sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)column[word], (__m512bh)factor);
          }
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) _mm512_storeu_ps(scores + r * scores_stride + t, sums[r]);
  }
}

// kLoads * 32 columns, `width` of them real.
template <int kRows, int kLoads, typename T>
inline void MixColumns(const T* values, size_t count, size_t dim, size_t width, const T* ahead,
                       const uint32_t* weights, size_t weights_stride, float* mix,
                       size_t mix_stride) {
  const __m512i low = _mm512_load_si512(kInterleave.low);
  const __m512i high = _mm512_load_si512(kInterleave.high);
  // The last 16 of the columns may lie beyond the mix's padded row.
  const bool whole = width > kLoads * 32 - 16;
  __m512 sums[kRows][2 * kLoads];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 2 * kLoads; ++v) {
      const bool inside = whole || v < 2 * kLoads - 1;
      sums[r][v] = inside ? _mm512_loadu_ps(mix + r * mix_stride + v * 16) : _mm512_setzero_ps();
    }
  }
  for (size_t t = 0; t < count; t += 2) {
    const T* first = values + t * dim;
    const bool paired = t + 1 < count;
    // Loads and prefetches in the order of addresses, which the hardware's own prefetchers follow.
    __m512i a[kLoads], b[kLoads];
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) {
      a[i] = LoadPairs(first + 32 * i, i + 1 < kLoads ? 32 : width - 32 * i);
    }
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) {
      b[i] = paired ? LoadPairs(first + dim + 32 * i, i + 1 < kLoads ? 32 : width - 32 * i)
                    : _mm512_setzero_si512();
    }
    __m512i pairs[2 * kLoads];
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) {
      pairs[2 * i] = _mm512_permutex2var_epi16(a[i], low, b[i]);
      pairs[2 * i + 1] = _mm512_permutex2var_epi16(a[i], high, b[i]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      // One line between the rows' products: 2 * kLoads lines are read, and asked for, in this
      // iteration.
#pragma GCC unroll 4
      for (int line = r; line < 2 * kLoads; line += kRows) {
        Prefetch(ahead, (t + line / kLoads) * dim + 32 * (line % kLoads));
      }
      const __m512i factor =
          _mm512_set1_epi32(static_cast<int>(weights[r * weights_stride + t / 2]));
#pragma GCC unroll 4
      for (int v = 0; v < 2 * kLoads; ++v) {
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)pairs[v], (__m512bh)factor);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 2 * kLoads; ++v) {
      if (whole || v < 2 * kLoads - 1) _mm512_storeu_ps(mix + r * mix_stride + v * 16, sums[r][v]);
    }
  }
}

template <int kRows, typename T>
void MixRows(const T* values, size_t count, size_t dim, const T* ahead, const uint32_t* weights,
             size_t weights_stride, float* mix, size_t mix_stride) {
  constexpr int kLoads = kRows <= 6 ? 2 : 1;  // 24 accumulators at most
  size_t d = 0;
  for (; dim - d > 32 * (kLoads - 1); d += 32 * kLoads) {
    const size_t width = std::min<size_t>(32 * kLoads, dim - d);
    MixColumns<kRows, kLoads>(values + d, count, dim, width, ahead == nullptr ? nullptr : ahead + d,
                              weights, weights_stride, mix + d, mix_stride);
    if (width < 32 * kLoads) return;
  }
  if (d < dim) {
    MixColumns<kRows, 1>(values + d, count, dim, dim - d, ahead == nullptr ? nullptr : ahead + d,
                         weights, weights_stride, mix + d, mix_stride);
  }
}

template <typename T>
inline void ScoreKeysAs(const T* keys, size_t count, size_t dim, const void* ahead,
                        const uint32_t* queries, size_t rows, float* scores, size_t scores_stride) {
  WithRows<kMaxStreamedRows>(rows, [&]<int kRows>() {
    ScoreRows<kRows>(keys, count, dim, static_cast<const T*>(ahead), queries, scores,
                     scores_stride);
  });
}

template <typename T>
inline void MixValuesAs(const T* values, size_t count, size_t dim, const void* ahead,
                        const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
                        size_t mix_stride) {
  WithRows<kMaxStreamedRows>(rows, [&]<int kRows>() {
    MixRows<kRows>(values, count, dim, static_cast<const T*>(ahead), weights, weights_stride, mix,
                   mix_stride);
  });
}

}  // namespace

void ScoreKeys(const bf16* keys, size_t count, size_t dim, const void* ahead,
               const uint32_t* queries, size_t rows, float* scores, size_t scores_stride) {
  ScoreKeysAs(keys, count, dim, ahead, queries, rows, scores, scores_stride);
}
void ScoreKeys(const int8_t* keys, size_t count, size_t dim, const void* ahead,
               const uint32_t* queries, size_t rows, float* scores, size_t scores_stride) {
  ScoreKeysAs(keys, count, dim, ahead, queries, rows, scores, scores_stride);
}
void MixValues(const bf16* values, size_t count, size_t dim, const void* ahead,
               const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
               size_t mix_stride) {
  MixValuesAs(values, count, dim, ahead, weights, weights_stride, rows, mix, mix_stride);
}
void MixValues(const int8_t* values, size_t count, size_t dim, const void* ahead,
               const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
               size_t mix_stride) {
  MixValuesAs(values, count, dim, ahead, weights, weights_stride, rows, mix, mix_stride);
}

}  // namespace kvasir
KVASIR_AVX512_BF16_END

#else  // no such instructions: HasBf16Products() says so, and nobody calls these

namespace kvasir {

void ScoreKeys(const bf16*, size_t, size_t, const void*, const uint32_t*, size_t, float*, size_t) {
  KVASIR_CHECK(false);
}
void ScoreKeys(const int8_t*, size_t, size_t, const void*, const uint32_t*, size_t, float*,
               size_t) {
  KVASIR_CHECK(false);
}
void MixValues(const bf16*, size_t, size_t, const void*, const uint32_t*, size_t, size_t, float*,
               size_t) {
  KVASIR_CHECK(false);
}
void MixValues(const int8_t*, size_t, size_t, const void*, const uint32_t*, size_t, size_t, float*,
               size_t) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir
#endif
