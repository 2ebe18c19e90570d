#include "base/check.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <random>

#include "runtime/kernels/avx512_bf16-inl.h"
#include "runtime/kernels/row_blocks.h"

KVASIR_AVX512_BF16_BEGIN

namespace kvasir {
namespace {

#include "runtime/kernels/columns/avx512_columns-inl.h"

using avx512::FlushDenormals;
using avx512::Widen;

template <int kRows>
inline void AddInput(const float* x, size_t stride, const __m512 (&weights)[kVectors],
                     __m512 (&sums)[kRows][kVectors]) {
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    const __m512 input = _mm512_set1_ps(x[r * stride]);
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v)
      sums[r][v] = _mm512_fmadd_ps(input, weights[v], sums[r][v]);
  }
}

struct WidenedPairs : FloatSums {
  using Input = float;
  static constexpr size_t kWordInputs = 2;

  template <int kHalf, int kRows>
  static void Half(const Input* x, size_t stride, const char* from, Sums (&sums)[kRows][kVectors]) {
    __m512 w[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) w[v] = Widen<kHalf>(_mm512_loadu_si512(from + v * 64));
    AddInput<kRows>(x + kHalf, stride, w, sums);
  }
  template <int kRows>
  static void Word(const Input* x, size_t stride, const char* from, Sums (&sums)[kRows][kVectors]) {
    Half<1, kRows>(x, stride, from, sums);
    asm volatile("" ::: "memory");  // both halves at once would not fit into the registers
    Half<0, kRows>(x, stride, from, sums);
  }
};

template <int kRows>
inline void PanelTile(const float* x, size_t depth, const float* panel, bool first, float* sums,
                      size_t sums_stride) {
  __m512 c[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      c[r][v] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * sums_stride + v * 16);
    }
  }
  const auto add = [&](size_t k) __attribute__((always_inline)) {
    __m512 w[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) w[v] = _mm512_loadu_ps(panel + k * kAmxColumns + v * 16);
    AddInput<kRows>(x + k, depth, w, c);
  };
  for (size_t k = 0; k < depth; k += 2) {
    add(k + 1);
    add(k);
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v)
      _mm512_storeu_ps(sums + r * sums_stride + v * 16, c[r][v]);
  }
}

// Seconds that some thousand of the operations take, as many at a time as hide their latency: the
// shortest of some runs, which others disturb.
template <typename Operation>
double TimeOf(const Operation& operation) {
  constexpr int kRuns = 21, kRepeats = 500, kAtATime = 12;
  double shortest = std::numeric_limits<double>::infinity();
  for (int run = 0; run < kRuns; ++run) {
    __m512 sums[kAtATime];
#pragma GCC unroll 12
    for (int i = 0; i < kAtATime; ++i) sums[i] = _mm512_setzero_ps();
    const auto start = std::chrono::steady_clock::now();
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma GCC unroll 12
      for (int i = 0; i < kAtATime; ++i) {
        sums[i] = operation(sums[i]);
        asm volatile("" : "+v"(sums[i]));  // keeps it, and in a register
      }
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    shortest = std::min(shortest, took.count());
  }
  return shortest;
}

// Chains of sums of some hundred words, of numbers of like and of unlike size.
bool TryFmas() {
  constexpr int kTries = 256;
  const FlushDenormals flush;
  std::minstd_rand random(1);
  std::uniform_int_distribution<uint32_t> bits(0, 0x47ff);  // up to 2^16
  const auto word = [&] {
    alignas(64) uint32_t words[16];
    for (uint32_t& w : words) {
      w = bits(random) << 16 | bits(random) | (random() % 2 << 15) | (random() % 2 << 31);
    }
    return _mm512_load_si512(words);
  };
  __m512 dots = _mm512_setzero_ps(), fmas = dots;
  for (int i = 0; i < kTries; ++i) {
    const __m512i a = word(), b = word();
    // From the same sum, lest a difference be lost in what follows.
    fmas =
        _mm512_fmadd_ps(Widen<0>(a), Widen<0>(b), _mm512_fmadd_ps(Widen<1>(a), Widen<1>(b), dots));
    dots = avx512::Dot(dots, a, b);
    if (_mm512_cmpneq_epi32_mask(_mm512_castps_si512(dots), _mm512_castps_si512(fmas)) != 0)
      return false;
  }
  return true;
}

bool MeasureFmas() {
  const __m512i words = _mm512_set1_epi32(0x3f803f80);  // 1, 1
  const __m512 ones = _mm512_set1_ps(1.0f);
  const double dots = TimeOf([=](__m512 sum) __attribute__((always_inline)) {
    return avx512::Dot(sum, words, words);
  });
  const double fmas = TimeOf([=](__m512 sum) __attribute__((always_inline)) {
    return _mm512_fmadd_ps(ones, ones, _mm512_fmadd_ps(ones, ones, sum));
  });
  return fmas < dots;
}

}  // namespace

bool FmasEqualBf16Products() {
  static const bool equal = TryFmas();
  return equal;
}

bool FmasOutrunBf16Products() {
  static const bool outrun = FmasEqualBf16Products() && MeasureFmas();
  return outrun;
}

void FmaColumnProduct(const float* x, size_t x_stride, size_t rows, size_t depth,
                      const void* weights, const void* weights_end, StreamAsking asking,
                      float* sums) {
  const FlushDenormals flush;
  ColumnProduct<WidenedPairs>(x, x_stride, rows, depth, weights, weights_end, asking, sums);
}

void WidenPanel(const void* words, size_t stride, size_t depth, float* panel) {
  KVASIR_CHECK(depth % 2 == 0);
  const auto* const from = static_cast<const uint32_t*>(words);
  for (size_t word = 0; word < depth / 2; ++word) {
    float* const to = panel + 2 * word * kAmxColumns;
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const __m512i pairs = _mm512_loadu_si512(from + word * stride + v * 16);
      _mm512_storeu_ps(to + v * 16, Widen<0>(pairs));
      _mm512_storeu_ps(to + kAmxColumns + v * 16, Widen<1>(pairs));
    }
  }
}

void FmaPanelProduct(const float* x, size_t rows, size_t depth, const float* panel, bool first,
                     UpcomingLines::Lines upcoming, float* sums, size_t sums_stride) {
  const FlushDenormals flush;
  KVASIR_CHECK(depth % 2 == 0);
  size_t asked = 0;
  ForRowBlocks<kRowsTogether>(rows, [&]<int kRows>(size_t row) {
    // Evenly over the rows.
    const size_t until = upcoming.count * (row + kRows) / rows;
    for (; asked < until; ++asked) _mm_prefetch(upcoming[asked], _MM_HINT_T1);
    PanelTile<kRows>(x + row * depth, depth, panel, first, sums + row * sums_stride, sums_stride);
  });
}

}  // namespace kvasir

KVASIR_AVX512_BF16_END

#else

namespace kvasir {

bool FmasEqualBf16Products() { return false; }
bool FmasOutrunBf16Products() { return false; }
void FmaColumnProduct(const float*, size_t, size_t, size_t, const void*, const void*, StreamAsking,
                      float*) {
  KVASIR_CHECK(false);
}
void WidenPanel(const void*, size_t, size_t, float*) { KVASIR_CHECK(false); }
void FmaPanelProduct(const float*, size_t, size_t, const float*, bool, UpcomingLines::Lines, float*,
                     size_t) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir

#endif
