#include "base/check.h"
#include "runtime/kernels/panels/panel_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "runtime/kernels/row_blocks.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

namespace kvasir {
namespace {

// 4 x 2 sums, two vectors of weights, one of inputs, one of ones and what is between them are 13 of
// the 16 registers.
constexpr int kMaxTileRows = 4;

// As in float_panel_kernels.cc: 8 KiB of weights beside 0.5 of rows.
constexpr size_t kChunkDepth = 128;
constexpr size_t kAheadBytes = 2048;

template <int kRows, bool kAsks>
inline void Tile(const uint8_t* x, size_t x_stride, size_t depth, const int8_t* weights, bool add,
                 int32_t* out) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[kRows][2];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const auto* const at = reinterpret_cast<const __m256i*>(out + r * kSumColumns + v * 8);
      sums[r][v] = add ? _mm256_loadu_si256(at) : _mm256_setzero_si256();
    }
  }
  for (size_t k = 0; k < depth; k += 4) {
    const int8_t* const from = weights + k * kPanelOutputs;
    if constexpr (kAsks) __builtin_prefetch(from + kAheadBytes, /*rw=*/0, /*locality=*/2);
    const __m256i w[2] = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32))};
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      int32_t four;
      std::memcpy(&four, x + r * x_stride + k, sizeof(four));
      const __m256i inputs = _mm256_set1_epi32(four);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const __m256i pairs = _mm256_maddubs_epi16(inputs, w[v]);
        sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * kSumColumns + v * 8), sums[r][v]);
    }
  }
}

}  // namespace

bool HasInt8Panels() {
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  return has_avx2;
}

void PanelProduct(const uint8_t* x, size_t x_stride, size_t rows, size_t depth,
                  const WeightPanels<int8_t>& weights, bool add, int32_t* sums) {
  KVASIR_CHECK(depth % 4 == 0);
  const size_t chunk = rows > kMaxTileRows ? kChunkDepth : depth;
  for (size_t k = 0; k < depth; k += chunk) {
    const size_t count = std::min(chunk, depth - k);
    const bool adds = add || k > 0;
    ForRowBlocks<kMaxTileRows>(rows, [&]<int kRows>(size_t row) {
      for (size_t p = 0; p < weights.panels; ++p) {
        const int8_t* const from = weights.first + p * weights.panel_stride + k * kPanelOutputs;
        int32_t* const to = sums + row * kSumColumns + p * kPanelOutputs;
        const uint8_t* const inputs = x + row * x_stride + k;
        if (row == 0) {
          Tile<kRows, true>(inputs, x_stride, count, from, adds, to);
        } else {
          Tile<kRows, false>(inputs, x_stride, count, from, adds, to);
        }
      }
    });
  }
}

}  // namespace kvasir

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace kvasir {

bool HasInt8Panels() { return false; }
void PanelProduct(const uint8_t*, size_t, size_t, size_t, const WeightPanels<int8_t>&, bool,
                  int32_t*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir

#endif
