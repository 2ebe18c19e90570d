#include "runtime/kernels/bf16_attention_kernels.h"

#include <algorithm>
#include <limits>

#include "hwy/highway.h"
#include "kvcache/check.h"

#if HWY_ARCH_X86_64

#include <immintrin.h>

// Everything up to the matching pop is compiled for AVX-512 BF16, whatever the flags of this file.
#if defined(__clang__)
#pragma clang attribute push(                                                     \
        __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))), \
            apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#endif

namespace kvasir {
namespace {

// The first `count` (<= 32) bf16 at `from`, the rest 0; touches nothing beyond them.
inline __m512i LoadPairs(const bf16* from, size_t count) {
  if (count >= 32) return _mm512_loadu_si512(from);
  return _mm512_maskz_loadu_epi16((__mmask32{1} << count) - 1, from);
}

// int8 in [-127, 127] fits into bf16's 8 significant bits.
inline __m512i LoadPairs(const int8_t* from, size_t count) {
  const __mmask32 mask = count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
  const __m256i bytes = _mm256_maskz_loadu_epi8(mask, from);
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1)));
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// The line of element `offset` of the rows ahead. Prefetching never faults, so running over their
// end is harmless.
template <typename T>
inline void Prefetch(const T* ahead, size_t offset) {
  if (ahead != nullptr) _mm_prefetch(reinterpret_cast<const char*>(ahead + offset), _MM_HINT_NTA);
}

// Line `line` of the (up to 16) lines that hold 16 x 32 elements at `ahead`.
template <typename T>
inline void PrefetchLine(const T* ahead, int line) {
  if (ahead == nullptr || line >= static_cast<int>(8 * sizeof(T))) return;
  _mm_prefetch(reinterpret_cast<const char*>(ahead) + 64 * line, _MM_HINT_NTA);
}

// 16 rows of 16 words become 16 columns of 16 words.
inline void Transpose(const __m512i (&row)[16], __m512i (&column)[16]) {
  __m512i pair[16], quad[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  // quad[4g + c]: word c of each 128-bit lane of rows 4g .. 4g + 3.
#pragma GCC unroll 4
  for (int g = 0; g < 16; g += 4) {
    quad[g] = _mm512_unpacklo_epi64(pair[g], pair[g + 2]);
    quad[g + 1] = _mm512_unpackhi_epi64(pair[g], pair[g + 2]);
    quad[g + 2] = _mm512_unpacklo_epi64(pair[g + 1], pair[g + 3]);
    quad[g + 3] = _mm512_unpackhi_epi64(pair[g + 1], pair[g + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i even_low =
        _mm512_shuffle_i32x4(quad[c], quad[c + 4], 0x88);  // lanes 0, 2 of rows 0-7
    const __m512i odd_low = _mm512_shuffle_i32x4(quad[c], quad[c + 4], 0xdd);  // lanes 1, 3
    const __m512i even_high = _mm512_shuffle_i32x4(quad[c + 8], quad[c + 12], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(quad[c + 8], quad[c + 12], 0xdd);
    column[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    column[4 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    column[8 + c] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    column[12 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
}

// 32 dimensions (or `width`, the last ones) of 16 keys (or `count`, the last ones) as 16 columns of
// pairs.
template <typename T>
inline void LoadKeyColumns(const T* keys, size_t count, size_t dim, size_t width,
                           __m512i (&column)[16]) {
  __m512i row[16];
  if (count >= 16 && width >= 32) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      row[i] = LoadPairs(keys + i * dim, 32);
    }
  } else {
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; ++i) {
      row[i] = i < count ? LoadPairs(keys + i * dim, width) : _mm512_setzero_si512();
    }
  }
  Transpose(row, column);
}

template <typename T>
inline void PackKeysAs(const T* keys, size_t count, size_t dim, const T* ahead, uint32_t* out,
                       size_t out_stride) {
  for (size_t t = 0; t < count; t += 16) {
    for (size_t d = 0; d < dim; d += 32) {
      const size_t offset = t * dim + d;
      const size_t width = std::min<size_t>(32, dim - d);
      __m512i column[16];
      // A group's 16 rows are contiguous; each 32 of their dimensions prefetch as many lines as
      // they read.
      const T* group_ahead = ahead == nullptr ? nullptr : ahead + t * dim + 16 * d;
      LoadKeyColumns(keys + offset, count - t, dim, width, column);
      uint32_t* to = out + d / 2 * out_stride + t;
      if (width == 32) {
#pragma GCC unroll 16
        for (int word = 0; word < 16; ++word) {
          PrefetchLine(group_ahead, word);
          _mm512_storeu_si512(to + word * out_stride, column[word]);
        }
      } else {
        for (size_t word = 0; word < width / 2; ++word)
          _mm512_storeu_si512(to + word * out_stride, column[word]);
      }
    }
  }
}

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

// Interleaves the 16-bit elements of two rows; low and high halves of the result.
struct InterleaveIndex {
  alignas(64) uint16_t low[32];
  alignas(64) uint16_t high[32];
};

constexpr InterleaveIndex MakeInterleaveIndex() {
  InterleaveIndex index{};
  for (uint16_t i = 0; i < 16; ++i) {
    index.low[2 * i] = i;
    index.low[2 * i + 1] = static_cast<uint16_t>(32 + i);
    index.high[2 * i] = static_cast<uint16_t>(16 + i);
    index.high[2 * i + 1] = static_cast<uint16_t>(48 + i);
  }
  return index;
}

constexpr InterleaveIndex kInterleave = MakeInterleaveIndex();

template <typename T>
inline void PackValuesAs(const T* values, size_t count, size_t dim, const T* ahead, uint32_t* out,
                         size_t out_stride) {
  const __m512i low = _mm512_load_si512(kInterleave.low);
  const __m512i high = _mm512_load_si512(kInterleave.high);
  for (size_t t = 0; t < count; t += 2) {
    const T* first = values + t * dim;
    const bool paired = t + 1 < count;
    uint32_t* to = out + t / 2 * out_stride;
    for (size_t d = 0; d < dim; d += 32) {
      const size_t width = dim - d < 32 ? dim - d : 32;
      Prefetch(ahead, t * dim + d);
      Prefetch(ahead, (t + 1) * dim + d);
      const __m512i a = LoadPairs(first + d, width);
      const __m512i b = paired ? LoadPairs(first + dim + d, width) : _mm512_setzero_si512();
      _mm512_storeu_si512(to + d, _mm512_permutex2var_epi16(a, low, b));
      if (width > 16) _mm512_storeu_si512(to + d + 16, _mm512_permutex2var_epi16(a, high, b));
    }
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

// Calls body.operator()<rows>() for rows in [1, kMaxStreamedRows].
template <typename Body>
inline void WithRows(size_t rows, const Body& body) {
  switch (rows) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 3:
      return body.template operator()<3>();
    case 4:
      return body.template operator()<4>();
    case 5:
      return body.template operator()<5>();
    case 6:
      return body.template operator()<6>();
    case 7:
      return body.template operator()<7>();
    case 8:
      return body.template operator()<8>();
    case 9:
      return body.template operator()<9>();
    case 10:
      return body.template operator()<10>();
    case 11:
      return body.template operator()<11>();
    case 12:
      return body.template operator()<12>();
    default:
      KVASIR_CHECK(false);
  }
}

template <typename T>
inline void ScoreKeysAs(const T* keys, size_t count, size_t dim, const void* ahead,
                        const uint32_t* queries, size_t rows, float* scores, size_t scores_stride) {
  WithRows(rows, [&]<int kRows>() {
    ScoreRows<kRows>(keys, count, dim, static_cast<const T*>(ahead), queries, scores,
                     scores_stride);
  });
}

template <typename T>
inline void MixValuesAs(const T* values, size_t count, size_t dim, const void* ahead,
                        const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
                        size_t mix_stride) {
  WithRows(rows, [&]<int kRows>() {
    MixRows<kRows>(values, count, dim, static_cast<const T*>(ahead), weights, weights_stride, mix,
                   mix_stride);
  });
}

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

template <int kRows, int kVectors>
inline void ProductBlock(const uint32_t* a, size_t a_stride, size_t depth, const uint32_t* b,
                         size_t b_stride, float* c, size_t c_stride) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  for (size_t k = 0; k < depth; ++k) {
    __m512i columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = _mm512_loadu_si512(b + k * b_stride + v * 16);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i factor = _mm512_set1_epi32(static_cast<int>(a[r * a_stride + k]));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)columns[v], (__m512bh)factor);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + r * c_stride + v * 16, sums[r][v]);
  }
}

template <int kVectors>
inline void ProductColumns(const uint32_t* a, size_t a_stride, size_t rows, size_t depth,
                           const uint32_t* b, size_t b_stride, float* c, size_t c_stride) {
  size_t r = 0;
  for (; r + 6 <= rows; r += 6) {
    ProductBlock<6, kVectors>(a + r * a_stride, a_stride, depth, b, b_stride, c + r * c_stride,
                              c_stride);
  }
  a += r * a_stride;
  c += r * c_stride;
  switch (rows - r) {
    case 5:
      return ProductBlock<5, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    case 4:
      return ProductBlock<4, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    case 3:
      return ProductBlock<3, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    case 2:
      return ProductBlock<2, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    case 1:
      return ProductBlock<1, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    default:
      return;
  }
}

}  // namespace

void PackKeyPairs(const bf16* keys, size_t count, size_t dim, const void* ahead, uint32_t* out,
                  size_t out_stride) {
  PackKeysAs(keys, count, dim, static_cast<decltype(keys)>(ahead), out, out_stride);
}
void PackKeyPairs(const int8_t* keys, size_t count, size_t dim, const void* ahead, uint32_t* out,
                  size_t out_stride) {
  PackKeysAs(keys, count, dim, static_cast<decltype(keys)>(ahead), out, out_stride);
}
void PackValuePairs(const bf16* values, size_t count, size_t dim, const void* ahead, uint32_t* out,
                    size_t out_stride) {
  PackValuesAs(values, count, dim, static_cast<decltype(values)>(ahead), out, out_stride);
}
void PackValuePairs(const int8_t* values, size_t count, size_t dim, const void* ahead,
                    uint32_t* out, size_t out_stride) {
  PackValuesAs(values, count, dim, static_cast<decltype(values)>(ahead), out, out_stride);
}

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

void TileProductPairs(const uint32_t* a, size_t a_stride, size_t rows, size_t depth_pairs,
                      const uint32_t* b, size_t b_stride, size_t cols, float* c, size_t c_stride) {
  size_t j = 0;
  for (; j + 64 <= cols; j += 64) {
    ProductColumns<4>(a, a_stride, rows, depth_pairs, b + j, b_stride, c + j, c_stride);
  }
  switch ((cols - j) / 16) {
    case 3:
      return ProductColumns<3>(a, a_stride, rows, depth_pairs, b + j, b_stride, c + j, c_stride);
    case 2:
      return ProductColumns<2>(a, a_stride, rows, depth_pairs, b + j, b_stride, c + j, c_stride);
    case 1:
      return ProductColumns<1>(a, a_stride, rows, depth_pairs, b + j, b_stride, c + j, c_stride);
    default:
      return;
  }
}

}  // namespace kvasir

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace kvasir {

bool HasBf16Products() {
  static const bool cpu = __builtin_cpu_supports("avx512bf16") != 0;
  return cpu && DispatchesToAvx512();
}

}  // namespace kvasir

#else  // not x86-64: no such instructions, and nobody calls the rest.

namespace kvasir {

bool HasBf16Products() { return false; }
void PackKeyPairs(const bf16*, size_t, size_t, const void*, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void PackKeyPairs(const int8_t*, size_t, size_t, const void*, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void PackValuePairs(const bf16*, size_t, size_t, const void*, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void PackValuePairs(const int8_t*, size_t, size_t, const void*, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void TileProductPairs(const uint32_t*, size_t, size_t, size_t, const uint32_t*, size_t, size_t,
                      float*, size_t) {
  KVASIR_CHECK(false);
}
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
