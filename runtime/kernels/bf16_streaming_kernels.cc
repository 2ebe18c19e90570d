#include "base/check.h"
#include "hwy/highway.h"
#include "runtime/kernels/bf16_attention_kernels.h"

#if HWY_ARCH_X86_64

#include <algorithm>

#include "runtime/kernels/avx512_bf16-inl.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"
#include "runtime/kernels/row_blocks.h"
#include "runtime/kernels/streams/fma_streaming_kernels.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {
using namespace avx512;

template <int kRows, typename T>
void ScoreRows(const T* keys, size_t count, size_t dim, const T* ahead, const uint32_t* queries,
               typename KeyWords<T>::Sum* scores, size_t scores_stride) {
  using Words = KeyWords<T>;
  constexpr size_t kSlice = 16 * Words::kElements;  // elements
  const size_t query_words = (dim + Words::kElements - 1) / Words::kElements;
  for (size_t t = 0; t < count; t += 16) {
    typename Words::Sums sums[kRows];
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) ClearSums(sums[r]);
    for (size_t d = 0; d < dim; d += kSlice) {
      const size_t width = std::min(kSlice, dim - d);
      __m512i column[16];
      // A group's 16 rows are contiguous; each slice of their dimensions prefetches as many lines
      // as it reads.
      const T* group_ahead = ahead == nullptr ? nullptr : ahead + t * dim + 16 * d;
      LoadKeyColumns(keys + t * dim + d, count - t, dim, width, column);
      const uint32_t* query = queries + d / Words::kElements;
      // Whole: all 16 columns stay in registers. The columns past the last dimension are zeros, but
      // multiplying by them would read past the query.
      if (width == kSlice) {
#pragma GCC unroll 16
        for (int word = 0; word < 16; ++word) {
          PrefetchLine(group_ahead, word);
#pragma GCC unroll 12
          for (int r = 0; r < kRows; ++r) {
            const __m512i factor =
                _mm512_set1_epi32(static_cast<int>(query[r * query_words + word]));
            sums[r] = Words::Add(sums[r], column[word], factor);
          }
        }
      } else {
        const size_t words = query_words - d / Words::kElements;
        for (size_t word = 0; word < words; ++word) {
#pragma GCC unroll 12
          for (int r = 0; r < kRows; ++r) {
            const __m512i factor =
                _mm512_set1_epi32(static_cast<int>(query[r * query_words + word]));
            sums[r] = Words::Add(sums[r], column[word], factor);
          }
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) StoreSums(scores + r * scores_stride + t, sums[r]);
  }
}

// kLoads * 32 columns, `width` of them real.
template <int kRows, int kLoads, typename T>
inline void MixColumns(const T* values, size_t count, size_t dim, size_t width, const T* ahead,
                       const uint32_t* weights, size_t weights_stride,
                       typename ValueWords<T>::Sum* mix, size_t mix_stride) {
  using Words = ValueWords<T>;
  const __m512i low = _mm512_load_si512(kInterleave.low);
  const __m512i high = _mm512_load_si512(kInterleave.high);
  // The last 16 of the columns may lie beyond the mix's padded row.
  const bool whole = width > kLoads * 32 - 16;
  typename Words::Sums sums[kRows][2 * kLoads];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 2 * kLoads; ++v) {
      ClearSums(sums[r][v]);
      if (whole || v < 2 * kLoads - 1) sums[r][v] = LoadSums(mix + r * mix_stride + v * 16);
    }
  }
  for (size_t t = 0; t < count; t += 2) {
    const T* first = values + t * dim;
    const bool paired = t + 1 < count;
    // Loads and prefetches in the order of addresses, which the hardware's own prefetchers follow.
    __m512i a[kLoads], b[kLoads];
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) {
      a[i] = Words::Load(first + 32 * i, i + 1 < kLoads ? 32 : width - 32 * i);
    }
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) {
      b[i] = paired ? Words::Load(first + dim + 32 * i, i + 1 < kLoads ? 32 : width - 32 * i)
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
        sums[r][v] = Words::Add(sums[r][v], pairs[v], factor);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 2 * kLoads; ++v) {
      if (whole || v < 2 * kLoads - 1) StoreSums(mix + r * mix_stride + v * 16, sums[r][v]);
    }
  }
}

template <int kRows, typename T>
void MixRows(const T* values, size_t count, size_t stride, size_t dim, const T* ahead,
             const uint32_t* weights, size_t weights_stride, typename ValueWords<T>::Sum* mix,
             size_t mix_stride) {
  constexpr int kLoads = kRows <= 6 ? 2 : 1;  // 24 accumulators at most
  size_t d = 0;
  for (; dim - d > 32 * (kLoads - 1); d += 32 * kLoads) {
    const size_t width = std::min<size_t>(32 * kLoads, dim - d);
    MixColumns<kRows, kLoads>(values + d, count, stride, width,
                              ahead == nullptr ? nullptr : ahead + d, weights, weights_stride,
                              mix + d, mix_stride);
    if (width < 32 * kLoads) return;
  }
  if (d < dim) {
    MixColumns<kRows, 1>(values + d, count, stride, dim - d, ahead == nullptr ? nullptr : ahead + d,
                         weights, weights_stride, mix + d, mix_stride);
  }
}

template <typename T>
inline void ScoreKeysAs(absl::Span<const RowRun<T>> runs, size_t dim, const uint32_t* queries,
                        size_t rows, typename KeyWords<T>::Sum* scores, size_t scores_stride) {
  WithRows<kMaxStreamedRows>(rows, [&]<int kRows>() {
    size_t t = 0;
    for (const RowRun<T>& run : runs) {
      ScoreRows<kRows>(run.rows, run.count, dim, run.ahead, queries, scores + t, scores_stride);
      t += run.count;
    }
  });
}

template <typename T>
inline void MixValuesAs(absl::Span<const RowRun<T>> runs, size_t stride, size_t dim,
                        const uint32_t* weights, size_t weights_stride, size_t rows,
                        typename ValueWords<T>::Sum* mix, size_t mix_stride) {
  for (size_t r = 0; r < rows; ++r) std::fill_n(mix + r * mix_stride, RoundUpColumns(dim), 0);
  WithRows<kMaxStreamedRows>(rows, [&]<int kRows>() {
    const uint32_t* words = weights;
    for (const RowRun<T>& run : runs) {
      MixRows<kRows>(run.rows, run.count, stride, dim, run.ahead, words, weights_stride, mix,
                     mix_stride);
      words += run.count / 2;
    }
  });
}

}  // namespace

void ScoreKeys(absl::Span<const RowRun<bf16>> runs, size_t dim, const uint32_t* queries,
               size_t rows, float* scores, size_t scores_stride) {
  const bool by_fmas = FmasScoreKeys(dim) && FmasOutrunBf16Products();
  by_fmas ? ScoreKeysByFmas(runs, dim, queries, rows, scores, scores_stride)
          : ScoreKeysAs(runs, dim, queries, rows, scores, scores_stride);
}
void ScoreKeys(absl::Span<const RowRun<int8_t>> runs, size_t dim, const uint32_t* queries,
               size_t rows, int32_t* scores, size_t scores_stride) {
  ScoreKeysAs(runs, dim, queries, rows, scores, scores_stride);
}
void MixValues(absl::Span<const RowRun<bf16>> runs, size_t stride, size_t dim,
               const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
               size_t mix_stride) {
  const bool by_fmas = FmasMixValues(dim) && FmasOutrunBf16Products();
  by_fmas ? MixValuesByFmas(runs, stride, dim, weights, weights_stride, rows, mix, mix_stride)
          : MixValuesAs(runs, stride, dim, weights, weights_stride, rows, mix, mix_stride);
}
void MixValues(absl::Span<const RowRun<int8_t>> runs, size_t stride, size_t dim,
               const uint32_t* weights, size_t weights_stride, size_t rows, int32_t* mix,
               size_t mix_stride) {
  MixValuesAs(runs, stride, dim, weights, weights_stride, rows, mix, mix_stride);
}

}  // namespace kvasir
KVASIR_AVX512_BF16_END

#else  // no such instructions: HasBf16Products() says so, and nobody calls these

namespace kvasir {

void ScoreKeys(absl::Span<const RowRun<bf16>>, size_t, const uint32_t*, size_t, float*, size_t) {
  KVASIR_CHECK(false);
}
void ScoreKeys(absl::Span<const RowRun<int8_t>>, size_t, const uint32_t*, size_t, int32_t*,
               size_t) {
  KVASIR_CHECK(false);
}
void MixValues(absl::Span<const RowRun<bf16>>, size_t, size_t, const uint32_t*, size_t, size_t,
               float*, size_t) {
  KVASIR_CHECK(false);
}
void MixValues(absl::Span<const RowRun<int8_t>>, size_t, size_t, const uint32_t*, size_t, size_t,
               int32_t*, size_t) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir
#endif
