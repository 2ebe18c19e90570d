#include "runtime/kernels/bf16_attention_kernels.h"

#include "hwy/highway.h"
#include "kvcache/check.h"

#if HWY_ARCH_X86_64

#include <immintrin.h>

// Everything up to the matching pop is compiled for AVX-512 BF16, whatever the flags of this file.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))), \
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

// 16 rows of 16 words become 16 columns, stored `words` rows of `out`.
inline void TransposeStore(const __m512i (&row)[16], size_t words, uint32_t* out, size_t out_stride) {
  __m512i pair[16], quad[16];
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  // quad[4g + c]: word c of each 128-bit lane of rows 4g .. 4g + 3.
  for (int g = 0; g < 16; g += 4) {
    quad[g] = _mm512_unpacklo_epi64(pair[g], pair[g + 2]);
    quad[g + 1] = _mm512_unpackhi_epi64(pair[g], pair[g + 2]);
    quad[g + 2] = _mm512_unpacklo_epi64(pair[g + 1], pair[g + 3]);
    quad[g + 3] = _mm512_unpackhi_epi64(pair[g + 1], pair[g + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(quad[c], quad[c + 4], 0x88);   // lanes 0, 2 of rows 0-7
    const __m512i high01 = _mm512_shuffle_i32x4(quad[c], quad[c + 4], 0xdd);  // lanes 1, 3
    const __m512i low23 = _mm512_shuffle_i32x4(quad[c + 8], quad[c + 12], 0x88);
    const __m512i high23 = _mm512_shuffle_i32x4(quad[c + 8], quad[c + 12], 0xdd);
    const __m512i column[4] = {
        _mm512_shuffle_i32x4(low01, low23, 0x88), _mm512_shuffle_i32x4(high01, high23, 0x88),
        _mm512_shuffle_i32x4(low01, low23, 0xdd), _mm512_shuffle_i32x4(high01, high23, 0xdd)};
    for (size_t lane = 0; lane < 4; ++lane) {
      const size_t word = 4 * lane + c;
      if (word < words) _mm512_storeu_si512(out + word * out_stride, column[lane]);
    }
  }
}

template <typename T>
inline void PackKeysAs(const T* keys, size_t count, size_t dim, uint32_t* out, size_t out_stride) {
  for (size_t t = 0; t < count; t += 16) {
    for (size_t d = 0; d < dim; d += 32) {
      const size_t width = dim - d < 32 ? dim - d : 32;
      __m512i row[16];
      if (count - t >= 16) {
        for (size_t i = 0; i < 16; ++i) row[i] = LoadPairs(keys + (t + i) * dim + d, width);
      } else {
        for (size_t i = 0; i < 16; ++i) {
          row[i] = t + i < count ? LoadPairs(keys + (t + i) * dim + d, width) : _mm512_setzero_si512();
        }
      }
      TransposeStore(row, width / 2, out + d / 2 * out_stride + t, out_stride);
    }
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
inline void PackValuesAs(const T* values, size_t count, size_t dim, uint32_t* out, size_t out_stride) {
  const __m512i low = _mm512_load_si512(kInterleave.low);
  const __m512i high = _mm512_load_si512(kInterleave.high);
  for (size_t t = 0; t < count; t += 2) {
    const T* first = values + t * dim;
    const bool paired = t + 1 < count;
    uint32_t* to = out + t / 2 * out_stride;
    for (size_t d = 0; d < dim; d += 32) {
      const size_t width = dim - d < 32 ? dim - d : 32;
      const __m512i a = LoadPairs(first + d, width);
      const __m512i b = paired ? LoadPairs(first + dim + d, width) : _mm512_setzero_si512();
      _mm512_storeu_si512(to + d, _mm512_permutex2var_epi16(a, low, b));
      if (width > 16) _mm512_storeu_si512(to + d + 16, _mm512_permutex2var_epi16(a, high, b));
    }
  }
}

template <int kRows, int kVectors>
inline void ProductBlock(const uint32_t* a, size_t a_stride, size_t depth, const uint32_t* b, size_t b_stride,
                         float* c, size_t c_stride) {
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
inline void ProductColumns(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                           size_t b_stride, float* c, size_t c_stride) {
  size_t r = 0;
  for (; r + 6 <= rows; r += 6) {
    ProductBlock<6, kVectors>(a + r * a_stride, a_stride, depth, b, b_stride, c + r * c_stride, c_stride);
  }
  a += r * a_stride;
  c += r * c_stride;
  switch (rows - r) {
    case 5: return ProductBlock<5, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    case 4: return ProductBlock<4, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    case 3: return ProductBlock<3, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    case 2: return ProductBlock<2, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    case 1: return ProductBlock<1, kVectors>(a, a_stride, depth, b, b_stride, c, c_stride);
    default: return;
  }
}

}  // namespace

void PackKeyPairs(const bf16* keys, size_t count, size_t dim, uint32_t* out, size_t out_stride) {
  PackKeysAs(keys, count, dim, out, out_stride);
}
void PackKeyPairs(const int8_t* keys, size_t count, size_t dim, uint32_t* out, size_t out_stride) {
  PackKeysAs(keys, count, dim, out, out_stride);
}
void PackValuePairs(const bf16* values, size_t count, size_t dim, uint32_t* out, size_t out_stride) {
  PackValuesAs(values, count, dim, out, out_stride);
}
void PackValuePairs(const int8_t* values, size_t count, size_t dim, uint32_t* out, size_t out_stride) {
  PackValuesAs(values, count, dim, out, out_stride);
}

void TileProductPairs(const uint32_t* a, size_t a_stride, size_t rows, size_t depth_pairs, const uint32_t* b,
                      size_t b_stride, size_t cols, float* c, size_t c_stride) {
  size_t j = 0;
  for (; j + 64 <= cols; j += 64) {
    ProductColumns<4>(a, a_stride, rows, depth_pairs, b + j, b_stride, c + j, c_stride);
  }
  switch ((cols - j) / 16) {
    case 3: return ProductColumns<3>(a, a_stride, rows, depth_pairs, b + j, b_stride, c + j, c_stride);
    case 2: return ProductColumns<2>(a, a_stride, rows, depth_pairs, b + j, b_stride, c + j, c_stride);
    case 1: return ProductColumns<1>(a, a_stride, rows, depth_pairs, b + j, b_stride, c + j, c_stride);
    default: return;
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
  return cpu && (hwy::SupportedTargets() & HWY_AVX3) != 0;
}

}  // namespace kvasir

#else  // not x86-64: no such instructions, and nobody calls the rest.

namespace kvasir {

bool HasBf16Products() { return false; }
void PackKeyPairs(const bf16*, size_t, size_t, uint32_t*, size_t) { KVASIR_CHECK(false); }
void PackKeyPairs(const int8_t*, size_t, size_t, uint32_t*, size_t) { KVASIR_CHECK(false); }
void PackValuePairs(const bf16*, size_t, size_t, uint32_t*, size_t) { KVASIR_CHECK(false); }
void PackValuePairs(const int8_t*, size_t, size_t, uint32_t*, size_t) { KVASIR_CHECK(false); }
void TileProductPairs(const uint32_t*, size_t, size_t, size_t, const uint32_t*, size_t, size_t, float*, size_t) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir
#endif
