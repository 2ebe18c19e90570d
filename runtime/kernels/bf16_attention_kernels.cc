#include "runtime/kernels/bf16_attention_kernels.h"

#include "hwy/highway.h"
#include "kvcache/check.h"

#if HWY_ARCH_X86_64

#include <algorithm>
#include <atomic>

#include "runtime/kernels/avx512_bf16-inl.h"
#include "runtime/kernels/row_blocks.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {
using namespace avx512;

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

template <typename T>
inline void PackValuesAs(const T* values, size_t count, size_t dim, const T* ahead, uint32_t* out,
                         size_t panel_stride) {
  static_assert(kPanelColumns % 32 == 0);
  const __m512i low = _mm512_load_si512(kInterleave.low);
  const __m512i high = _mm512_load_si512(kInterleave.high);
  for (size_t t = 0; t < count; t += 2) {
    const T* first = values + t * dim;
    const bool paired = t + 1 < count;
    for (size_t d = 0; d < dim; d += 32) {
      uint32_t* to =
          out + d / kPanelColumns * panel_stride + t / 2 * kPanelColumns + d % kPanelColumns;
      const size_t width = dim - d < 32 ? dim - d : 32;
      Prefetch(ahead, t * dim + d);
      Prefetch(ahead, (t + 1) * dim + d);
      const __m512i a = LoadPairs(first + d, width);
      const __m512i b = paired ? LoadPairs(first + dim + d, width) : _mm512_setzero_si512();
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
      if (width > 16) _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(a, high, b));
    }
  }
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
inline void ProductColumns(const uint32_t* a, size_t a_stride, size_t rows, size_t depth_pairs,
                           const uint32_t* b, size_t b_stride, float* c, size_t c_stride) {
  ForRowBlocks<6>(rows, [=]<int kRows>(size_t r) {
    ProductBlock<kRows, kVectors>(a + r * a_stride, a_stride, depth_pairs, b, b_stride,
                                  c + r * c_stride, c_stride);
  });
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
                    size_t panel_stride) {
  PackValuesAs(values, count, dim, static_cast<decltype(values)>(ahead), out, panel_stride);
}
void PackValuePairs(const int8_t* values, size_t count, size_t dim, const void* ahead,
                    uint32_t* out, size_t panel_stride) {
  PackValuesAs(values, count, dim, static_cast<decltype(values)>(ahead), out, panel_stride);
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
KVASIR_AVX512_BF16_END

namespace kvasir {
namespace {
std::atomic<bool> forbidden{false};
}  // namespace

bool HasBf16Products() {
  static const bool cpu = __builtin_cpu_supports("avx512bf16") != 0;
  return cpu && !forbidden && DispatchesToAvx512();
}

void ForbidBf16Products() { forbidden = true; }

}  // namespace kvasir

#else  // no such instructions: HasBf16Products() says so, and nobody calls these

namespace kvasir {

bool HasBf16Products() { return false; }
void ForbidBf16Products() {}
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

}  // namespace kvasir
#endif
