#include "runtime/kernels/vnni_column_kernels.h"

#include "base/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "runtime/kernels/avx512_vnni_target-inl.h"
#include "runtime/kernels/row_blocks.h"

KVASIR_AVX512_VNNI_BEGIN

namespace kvasir {
namespace {

constexpr size_t kVectors = kAmxColumns / 16;
constexpr size_t kWords = 16;  // of a step, along the summed dimension
constexpr size_t kWordRowBytes = kAmxStepBytes / kWords;

// Sums of so many rows, four vectors of weights and one of inputs are 29 of the 32 registers.
constexpr int kRowsTogether = 6;

// As in amx_column_kernels.cc.
constexpr size_t kAheadBytes = 2 * kAmxStepBytes;
constexpr size_t kStepsTogether = 4;

// What rows that are multiplied together ask for: `steps` of theirs each ask for the one that lies
// `bytes` ahead, every so many words one. Memory has the time of all rows that way, not only of
// those that come first.
struct Asking {
  size_t steps = 0;
  size_t bytes = kAheadBytes;
  size_t first_word = 0;
  size_t every = 1;
};

// x: the first row's inputs of the first step.
template <int kRows>
inline void Steps(const uint8_t* x, size_t stride, const char* weights, size_t steps,
                  const Asking& asking, bool first, int32_t* sums) {
  __m512i c[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      c[r][v] =
          first ? _mm512_setzero_si512() : _mm512_loadu_si512(sums + r * kAmxColumns + v * 16);
    }
  }
  for (size_t step = 0; step < steps; ++step) {
    size_t asks = step < asking.steps ? asking.first_word : kWords;  // at this word
    for (size_t word = 0; word < kWords; ++word) {
      const char* const from = weights + step * kAmxStepBytes + word * kWordRowBytes;
      __m512i w[kVectors];
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) w[v] = _mm512_loadu_si512(from + v * 64);
      if (word == asks) {
        asks += asking.every;
#pragma GCC unroll 4
        for (size_t v = 0; v < kVectors; ++v)
          _mm_prefetch(from + asking.bytes + v * 64, _MM_HINT_T1);
      }
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        int32_t four;
        std::memcpy(&four, x + r * stride + (step * kWords + word) * 4, sizeof(four));
        const __m512i inputs = _mm512_set1_epi32(four);
#pragma GCC unroll 4
        for (size_t v = 0; v < kVectors; ++v) c[r][v] = _mm512_dpbusd_epi32(c[r][v], inputs, w[v]);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v)
      _mm512_storeu_si512(sums + r * kAmxColumns + v * 16, c[r][v]);
  }
}

}  // namespace

void VnniColumnProduct(const uint8_t* x, size_t rows, size_t depth, const void* weights,
                       const void* weights_end, int32_t* sums) {
  KVASIR_CHECK(depth % kAmxStepDepth<uint8_t> == 0);
  const size_t steps = depth / kAmxStepDepth<uint8_t>;
  const auto* const from = static_cast<const char*>(weights);
  const size_t passes = (rows + kRowsTogether - 1) / kRowsTogether;
  const size_t together = passes > 1 ? kStepsTogether : steps;
  const size_t ahead = passes > 1 ? kStepsTogether * kAmxStepBytes : kAheadBytes;
  // The first of these steps that has none to ask for.
  const size_t left = static_cast<const char*>(weights_end) - from;
  const size_t asking = std::min(steps, (left - std::min(left, ahead)) / kAmxStepBytes);
  for (size_t begin = 0; begin < steps; begin += together) {
    const size_t count = std::min(together, steps - begin);
    Asking asks{asking > begin ? std::min(count, asking - begin) : 0, ahead, 0, passes};
    ForRowBlocks<kRowsTogether>(rows, [&]<int kRows>(size_t row) {
      Steps<kRows>(x + row * depth + begin * kAmxStepDepth<uint8_t>, depth,
                   from + begin * kAmxStepBytes, count, asks, begin == 0, sums + row * kAmxColumns);
      ++asks.first_word;
    });
  }
}

}  // namespace kvasir

KVASIR_AVX512_VNNI_END

#else

namespace kvasir {

void VnniColumnProduct(const uint8_t*, size_t, size_t, const void*, const void*, int32_t*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir

#endif
