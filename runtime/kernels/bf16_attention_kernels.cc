#include "runtime/kernels/bf16_attention_kernels.h"

#include "base/check.h"
#include "hwy/highway.h"

#if HWY_ARCH_X86_64

#include <algorithm>
#include <atomic>

#include "runtime/kernels/avx512_bf16-inl.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"
#include "runtime/kernels/row_blocks.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {
using namespace avx512;

// Fewer rows are not worth widening a panel.
constexpr size_t kFewestFmaRows = 8;

template <typename T>
inline void PackKeysAs(const T* keys, size_t count, size_t dim, const T* ahead, uint32_t* out,
                       size_t out_stride) {
  using Words = KeyWords<T>;
  constexpr size_t kSlice = 16 * Words::kElements;
  for (size_t t = 0; t < count; t += 16) {
    for (size_t d = 0; d < dim; d += kSlice) {
      const size_t width = std::min(kSlice, dim - d);
      __m512i column[16];
      // A group's 16 rows are contiguous; each slice of their dimensions prefetches as many lines
      // as it reads.
      const T* group_ahead = ahead == nullptr ? nullptr : ahead + t * dim + 16 * d;
      LoadKeyColumns(keys + t * dim + d, count - t, dim, width, column);
      uint32_t* to = out + d / Words::kElements * out_stride + t;
      if (width == kSlice) {
#pragma GCC unroll 16
        for (int word = 0; word < 16; ++word) {
          PrefetchLine(group_ahead, word);
          _mm512_storeu_si512(to + word * out_stride, column[word]);
        }
      } else {
        for (size_t word = 0; word < (width + Words::kElements - 1) / Words::kElements; ++word)
          _mm512_storeu_si512(to + word * out_stride, column[word]);
      }
    }
  }
}

template <typename T>
inline void PackValuesAs(const T* values, size_t count, size_t stride, size_t width, const T* ahead,
                         uint32_t* out) {
  using Words = ValueWords<T>;
  const __m512i low = _mm512_load_si512(kInterleave.low);
  const __m512i high = _mm512_load_si512(kInterleave.high);
  for (size_t t = 0; t < count; t += 2) {
    const T* first = values + t * stride;
    const bool paired = t + 1 < count;
    for (size_t d = 0; d < width; d += 32) {
      const size_t rest = std::min<size_t>(32, width - d);
      Prefetch(ahead, t * stride + d);
      Prefetch(ahead, (t + 1) * stride + d);
      const __m512i a = Words::Load(first + d, rest);
      const __m512i b = paired ? Words::Load(first + stride + d, rest) : _mm512_setzero_si512();
      uint32_t* to = out + t / 2 * kPanelColumns + d;
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
      if (rest > 16) _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(a, high, b));
    }
  }
}

template <typename Words, int kRows, int kVectors>
inline void ProductBlock(const uint32_t* a, size_t a_stride, size_t depth, const uint32_t* b,
                         size_t b_stride, typename Words::Sum* c, size_t c_stride,
                         UpcomingLines::Lines upcoming) {
  typename Words::Sums sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) ClearSums(sums[r][v]);
  }
  for (size_t k = 0; k < depth; ++k) {
    // Into the second level: it is read when this chunk is done.
    if (k < upcoming.count) _mm_prefetch(upcoming[k], _MM_HINT_T1);
    __m512i columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = _mm512_loadu_si512(b + k * b_stride + v * 16);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i factor = _mm512_set1_epi32(static_cast<int>(a[r * a_stride + k]));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Words::Add(sums[r][v], columns[v], factor);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) StoreSums(c + r * c_stride + v * 16, sums[r][v]);
  }
}

template <typename Words, int kVectors>
inline void ProductColumns(const uint32_t* a, size_t a_stride, size_t rows, size_t depth,
                           const uint32_t* b, size_t b_stride, typename Words::Sum* c,
                           size_t c_stride, UpcomingLines* upcoming) {
  ForRowBlocks<6>(rows, [=]<int kRows>(size_t r) {
    ProductBlock<Words, kRows, kVectors>(a + r * a_stride, a_stride, depth, b, b_stride,
                                         c + r * c_stride, c_stride, upcoming->Take(depth));
  });
}

template <typename Words>
inline void Product(const uint32_t* a, size_t a_stride, size_t rows, size_t depth,
                    const uint32_t* b, size_t b_stride, size_t cols, typename Words::Sum* c,
                    size_t c_stride, UpcomingLines* upcoming) {
  size_t j = 0;
  for (; j + 64 <= cols; j += 64) {
    ProductColumns<Words, 4>(a, a_stride, rows, depth, b + j, b_stride, c + j, c_stride, upcoming);
  }
  WithRows<3>((cols - j) / 16, [=]<int kVectors>() {
    ProductColumns<Words, kVectors>(a, a_stride, rows, depth, b + j, b_stride, c + j, c_stride,
                                    upcoming);
  });
}

// Products of bf16 words by f32's FMAs, to the bit the same: where VDPBF16PS is the slower of both.
void ProductByFmas(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                   size_t b_stride, size_t cols, float* c, size_t c_stride,
                   UpcomingLines* upcoming) {
  constexpr size_t kWords = kFmaPanelDepth / 2, kRows = 64;
  alignas(64) float panel[kFmaPanelDepth * kPanelColumns];
  alignas(64) float wide[kRows * kFmaPanelDepth];
  for (size_t first = 0; first < rows; first += kRows) {
    const size_t count = std::min(kRows, rows - first);
    for (size_t k = 0; k < depth; k += kWords) {
      const size_t words = std::min(kWords, depth - k);
      for (size_t r = 0; r < count; ++r) {
        WidenRow(reinterpret_cast<const bf16*>(a + (first + r) * a_stride + k), 2 * words,
                 wide + r * 2 * words);
      }
      for (size_t j = 0; j < cols; j += kPanelColumns) {
        WidenPanel(b + k * b_stride + j, b_stride, 2 * words, panel);
        FmaPanelProduct(wide, count, 2 * words, panel, /*first=*/k == 0,
                        upcoming->Take(words * (count / 6)), c + first * c_stride + j, c_stride);
      }
    }
  }
}

// All columns by FMAs but those that are no whole panel.
void Bf16Product(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                 size_t b_stride, size_t cols, float* c, size_t c_stride, UpcomingLines* upcoming) {
  const bool by_fmas = rows >= kFewestFmaRows && FmasOutrunBf16Products();
  const size_t whole = by_fmas ? cols / kPanelColumns * kPanelColumns : 0;
  if (whole > 0) {
    ProductByFmas(a, a_stride, rows, depth, b, b_stride, whole, c, c_stride, upcoming);
  }
  Product<KeyWords<bf16>>(a, a_stride, rows, depth, b + whole, b_stride, cols - whole, c + whole,
                          c_stride, upcoming);
}

}  // namespace

void PackKeyWords(const bf16* keys, size_t count, size_t dim, const void* ahead, uint32_t* out,
                  size_t out_stride) {
  PackKeysAs(keys, count, dim, static_cast<decltype(keys)>(ahead), out, out_stride);
}
void PackKeyWords(const int8_t* keys, size_t count, size_t dim, const void* ahead, uint32_t* out,
                  size_t out_stride) {
  PackKeysAs(keys, count, dim, static_cast<decltype(keys)>(ahead), out, out_stride);
}
void PackValueWords(const bf16* values, size_t count, size_t stride, size_t width,
                    const void* ahead, uint32_t* out) {
  PackValuesAs(values, count, stride, width, static_cast<decltype(values)>(ahead), out);
}
void PackValueWords(const int8_t* values, size_t count, size_t stride, size_t width,
                    const void* ahead, uint32_t* out) {
  PackValuesAs(values, count, stride, width, static_cast<decltype(values)>(ahead), out);
}

void KeyProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                size_t b_stride, size_t cols, float* c, size_t c_stride, UpcomingLines* upcoming) {
  Bf16Product(a, a_stride, rows, depth, b, b_stride, cols, c, c_stride, upcoming);
}
void KeyProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                size_t b_stride, size_t cols, int32_t* c, size_t c_stride,
                UpcomingLines* upcoming) {
  Product<KeyWords<int8_t>>(a, a_stride, rows, depth, b, b_stride, cols, c, c_stride, upcoming);
}
void ValueProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                  size_t b_stride, size_t cols, float* c, size_t c_stride,
                  UpcomingLines* upcoming) {
  Bf16Product(a, a_stride, rows, depth, b, b_stride, cols, c, c_stride, upcoming);
}
void ValueProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                  size_t b_stride, size_t cols, int32_t* c, size_t c_stride,
                  UpcomingLines* upcoming) {
  Product<ValueWords<int8_t>>(a, a_stride, rows, depth, b, b_stride, cols, c, c_stride, upcoming);
}

}  // namespace kvasir
KVASIR_AVX512_BF16_END

namespace kvasir {
namespace {
std::atomic<bool> forbidden{false};
}  // namespace

bool HasBf16Products() {
  static const bool cpu =
      __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
  return cpu && !forbidden && DispatchesToAvx512();
}

void ForbidBf16Products() { forbidden = true; }

}  // namespace kvasir

#else  // no such instructions: HasBf16Products() says so, and nobody calls these

namespace kvasir {

bool HasBf16Products() { return false; }
void ForbidBf16Products() {}
void PackKeyWords(const bf16*, size_t, size_t, const void*, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void PackKeyWords(const int8_t*, size_t, size_t, const void*, uint32_t*, size_t) {
  KVASIR_CHECK(false);
}
void PackValueWords(const bf16*, size_t, size_t, size_t, const void*, uint32_t*) {
  KVASIR_CHECK(false);
}
void PackValueWords(const int8_t*, size_t, size_t, size_t, const void*, uint32_t*) {
  KVASIR_CHECK(false);
}
void KeyProduct(const uint32_t*, size_t, size_t, size_t, const uint32_t*, size_t, size_t, float*,
                size_t, UpcomingLines*) {
  KVASIR_CHECK(false);
}
void KeyProduct(const uint32_t*, size_t, size_t, size_t, const uint32_t*, size_t, size_t, int32_t*,
                size_t, UpcomingLines*) {
  KVASIR_CHECK(false);
}
void ValueProduct(const uint32_t*, size_t, size_t, size_t, const uint32_t*, size_t, size_t, float*,
                  size_t, UpcomingLines*) {
  KVASIR_CHECK(false);
}
void ValueProduct(const uint32_t*, size_t, size_t, size_t, const uint32_t*, size_t, size_t,
                  int32_t*, size_t, UpcomingLines*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir
#endif
