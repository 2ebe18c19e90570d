// Shared pieces of the AVX-512 BF16 and VNNI kernels, and the macros between which code is compiled
// for those instructions whatever the flags of the file. Included by runtime/kernels/bf16_*.cc
// only, on x86-64.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

// avx512bf16 implies avx512bw and avx512f. A pragma's text must be one literal.
#if defined(__clang__)
// clang-format off
#define KVASIR_AVX512_BF16_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"avx512bf16,avx512vnni,avx512vl,avx512dq\"))), apply_to=function)")
// clang-format on
#define KVASIR_AVX512_BF16_END _Pragma("clang attribute pop")
#else
#define KVASIR_AVX512_BF16_BEGIN \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512bf16,avx512vnni,avx512vl,avx512dq\")")
#define KVASIR_AVX512_BF16_END _Pragma("GCC pop_options")
#endif

KVASIR_AVX512_BF16_BEGIN
namespace kvasir::avx512 {

// sums + a . b of bf16 pairs (VDPBF16PS). LLVM 16 recurses without end when it sees that an operand
// is one word in all lanes, so clang is not shown what it is.
inline __m512 Dot(__m512 sums, __m512i a, __m512i b) {
#if defined(__clang__)
  asm("" : "+v"(a), "+v"(b));
#endif
  return _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
}

// bf16 as f32: of each word of two the first (kHalf 0) or the second.
template <int kHalf>
inline __m512 Widen(__m512i words) {
  return _mm512_castsi512_ps(kHalf == 0 ? _mm512_slli_epi32(words, 16)
                                        : _mm512_and_si512(words, _mm512_set1_epi32(-0x10000)));
}

// The first `count` of 16 lanes, at most all.
inline __mmask16 FirstLanes(size_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1);
}

// What ToFloats (convert.h) does, inlined where rows are short.
inline void WidenRow(const bf16* from, size_t count, float* to) {
  for (size_t i = 0; i < count; i += 16) {
    const __mmask16 mask = FirstLanes(count - i);
    const __m512i halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from + i));
    _mm512_mask_storeu_ps(to + i, mask, _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16)));
  }
}

// While it lives, this thread's f32 operations take and give 0 for denormal numbers, as VDPBF16PS
// always does.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) {
    _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero);
  }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x40;
  const unsigned before_;
};

// How rows of K of stored type T become words, and which instruction multiplies them: VDPBF16PS on
// two bf16, or VPDPBUSD on four int8 of K, made unsigned by adding 128, and four of the query.
template <typename T>
struct KeyWords;

template <>
struct KeyWords<bf16> {
  using Sum = float;
  using Sums = __m512;
  static constexpr size_t kElements = 2;  // per word
  // The first `count` elements (at most 16 words) at `from`, the rest 0; touches nothing beyond.
  static __m512i Load(const bf16* from, size_t count) {
    if (count >= 32) return _mm512_loadu_si512(from);
    return _mm512_maskz_loadu_epi16((__mmask32{1} << count) - 1, from);
  }
  static __m512i Empty() { return _mm512_setzero_si512(); }
  static Sums Add(Sums sums, __m512i words, __m512i factor) { return Dot(sums, words, factor); }
};

template <>
struct KeyWords<int8_t> {
  using Sum = int32_t;
  using Sums = __m512i;
  static constexpr size_t kElements = 4;
  static __m512i Load(const int8_t* from, size_t count) {
    const __m512i bytes = count >= 64 ? _mm512_loadu_si512(from)
                                      : _mm512_maskz_loadu_epi8((__mmask64{1} << count) - 1, from);
    return _mm512_xor_si512(bytes, Empty());
  }
  static __m512i Empty() { return _mm512_set1_epi8(-128); }
  static Sums Add(Sums sums, __m512i words, __m512i factor) {
    return _mm512_dpbusd_epi32(sums, words, factor);
  }
};

// The same for V, whose words hold two positions: VDPBF16PS, or VPDPWSSD on int8 widened to int16.
template <typename T>
struct ValueWords;

template <>
struct ValueWords<bf16> : KeyWords<bf16> {};

template <>
struct ValueWords<int8_t> {
  using Sum = int32_t;
  using Sums = __m512i;
  static __m512i Load(const int8_t* from, size_t count) {
    const __mmask32 mask = count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, from));
  }
  static Sums Add(Sums sums, __m512i words, __m512i factor) {
    return _mm512_dpwssd_epi32(sums, words, factor);
  }
};

inline void ClearSums(__m512& sums) { sums = _mm512_setzero_ps(); }
inline void ClearSums(__m512i& sums) { sums = _mm512_setzero_si512(); }
inline __m512 LoadSums(const float* from) { return _mm512_loadu_ps(from); }
inline __m512i LoadSums(const int32_t* from) { return _mm512_loadu_si512(from); }
inline void StoreSums(float* to, __m512 sums) { _mm512_storeu_ps(to, sums); }
inline void StoreSums(int32_t* to, __m512i sums) { _mm512_storeu_si512(to, sums); }

// The line of element `offset` of the rows ahead. Prefetching never faults, so running over their
// end is harmless. Into the second level: hints "non-temporal" go through the first level's few
// line buffers alone, and keep Intel's hardware prefetchers from following (measured on a Xeon with
// AMX, two cores streaming heads' tiles out of a pool: 10 GB/s, against 24 to 27 with this hint and
// 22 with none).
template <typename T>
inline void Prefetch(const T* ahead, size_t offset) {
  if (ahead != nullptr) _mm_prefetch(reinterpret_cast<const char*>(ahead + offset), _MM_HINT_T1);
}

// Line `line` of those at `ahead`.
template <typename T>
inline void PrefetchLine(const T* ahead, int line) {
  if (ahead == nullptr) return;
  _mm_prefetch(reinterpret_cast<const char*>(ahead) + 64 * line, _MM_HINT_T1);
}

// In each 128-bit lane, 4 rows of 4 words become 4 columns of 4 words.
inline void TransposeLanes(const __m512i* row, __m512i* column) {
  const __m512i low01 = _mm512_unpacklo_epi32(row[0], row[1]);
  const __m512i high01 = _mm512_unpackhi_epi32(row[0], row[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(row[2], row[3]);
  const __m512i high23 = _mm512_unpackhi_epi32(row[2], row[3]);
  column[0] = _mm512_unpacklo_epi64(low01, low23);
  column[1] = _mm512_unpackhi_epi64(low01, low23);
  column[2] = _mm512_unpacklo_epi64(high01, high23);
  column[3] = _mm512_unpackhi_epi64(high01, high23);
}

// 16 rows of 16 words become 16 columns of 16 words.
inline void Transpose(const __m512i (&row)[16], __m512i (&column)[16]) {
  // quad[4g + c]: word c of each 128-bit lane of rows 4g .. 4g + 3.
  __m512i quad[16];
#pragma GCC unroll 4
  for (int g = 0; g < 16; g += 4) TransposeLanes(row + g, quad + g);
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

// 16 words of dimensions (or the words of the last `width` elements) of 16 keys (or of the last
// `count`) as columns of words.
template <typename T>
inline void LoadKeyColumns(const T* keys, size_t count, size_t dim, size_t width,
                           __m512i (&column)[16]) {
  using Words = KeyWords<T>;
  __m512i row[16];
  if (count >= 16 && width >= 16 * Words::kElements) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) row[i] = Words::Load(keys + i * dim, 16 * Words::kElements);
  } else {
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; ++i) {
      row[i] = i < count ? Words::Load(keys + i * dim, width) : Words::Empty();
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

inline __m512i Broadcast(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }

// [t] of two rows interleaved: words (a[t], b[t]).
struct Interleaved {
  __m512i low, high;
};
inline Interleaved Interleave(__m512i a, __m512i b) {
  const __m512i low = _mm512_load_si512(kInterleave.low),
                high = _mm512_load_si512(kInterleave.high);
  return {_mm512_permutex2var_epi16(a, low, b), _mm512_permutex2var_epi16(a, high, b)};
}

inline __m512i LoadHalf(const bf16* from) {
  return _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

}  // namespace kvasir::avx512
KVASIR_AVX512_BF16_END
