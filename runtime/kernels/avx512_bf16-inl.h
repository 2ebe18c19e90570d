// Shared pieces of the AVX-512 BF16 kernels, and the macros between which code is compiled for
// those instructions whatever the flags of the file. Included by runtime/kernels/bf16_*.cc only, on
// x86-64.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "runtime/base/bf16.h"

// avx512bf16 implies avx512bw and avx512f. A pragma's text must be one literal.
#if defined(__clang__)
// clang-format off
#define KVASIR_AVX512_BF16_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"avx512bf16,avx512vl,avx512dq\"))), apply_to=function)")
// clang-format on
#define KVASIR_AVX512_BF16_END _Pragma("clang attribute pop")
#else
#define KVASIR_AVX512_BF16_BEGIN \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512bf16,avx512vl,avx512dq\")")
#define KVASIR_AVX512_BF16_END _Pragma("GCC pop_options")
#endif

KVASIR_AVX512_BF16_BEGIN
namespace kvasir::avx512 {

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

}  // namespace kvasir::avx512
KVASIR_AVX512_BF16_END
