#include "runtime/kernels/columns/amx_column_kernels.h"

#include "base/check.h"
#include "hwy/highway.h"
#include "runtime/kernels/amx_attention_kernels.h"

#if HWY_ARCH_X86_64 && defined(__linux__)

#include <immintrin.h>

#include <algorithm>

#include "runtime/kernels/amx_target-inl.h"

KVASIR_AMX_BEGIN
namespace kvasir {
namespace {

// Between a step and the one that it asks for: more than the machine's latency times one core's
// share of its bandwidth, and little beside the second cache level. Measured with 2, 4, 8 and 16.
constexpr size_t kAheadBytes = 2 * kAmxStepBytes;

// With more than one tile of rows, each takes this many steps before the next one takes them again,
// from the first cache level.
constexpr size_t kStepsTogether = 4;

constexpr size_t kTileColumns = 16;
constexpr size_t kSumRowBytes = kAmxColumns * 4;

// C: tiles 0 to 3, one for each 16 columns; A: 4; B: 5 and 6 in turn.
struct Bf16Columns {
  static void Add0() { _tile_dpbf16ps(0, 4, 5); }
  static void Add1() { _tile_dpbf16ps(1, 4, 6); }
  static void Add2() { _tile_dpbf16ps(2, 4, 5); }
  static void Add3() { _tile_dpbf16ps(3, 4, 6); }
};

struct UnsignedBySignedColumns {
  static void Add0() { _tile_dpbusd(0, 4, 5); }
  static void Add1() { _tile_dpbusd(1, 4, 6); }
  static void Add2() { _tile_dpbusd(2, 4, 5); }
  static void Add3() { _tile_dpbusd(3, 4, 6); }
};

// Asks for a quarter of a step, into the second level: through the first one's line buffers alone
// (a hint of T0 or NTA) two cores get 10 GB/s.
inline void Ask(const char* quarter) {
  for (size_t line = 0; line < kAmxStepBytes / 4; line += 64) {
    _mm_prefetch(quarter + line, _MM_HINT_T1);
  }
}

template <typename Columns, bool kAsks>
inline void Step(const char* x, size_t x_stride, const char* weights) {
  constexpr size_t kRowBytes = kAmxStepBytes / 16;
  const char* const ahead = weights + kAheadBytes;
  _tile_loadd(4, x, x_stride);
  _tile_loadd(5, weights, kRowBytes);
  Columns::Add0();
  if constexpr (kAsks) Ask(ahead);
  _tile_loadd(6, weights + 64, kRowBytes);
  Columns::Add1();
  if constexpr (kAsks) Ask(ahead + kAmxStepBytes / 4);
  _tile_loadd(5, weights + 128, kRowBytes);
  Columns::Add2();
  if constexpr (kAsks) Ask(ahead + kAmxStepBytes / 2);
  _tile_loadd(6, weights + 192, kRowBytes);
  Columns::Add3();
  if constexpr (kAsks) Ask(ahead + kAmxStepBytes * 3 / 4);
}

template <typename Columns, typename T, typename Sum>
void Product(const T* x, size_t rows, size_t depth, const void* weights, const void* weights_end,
             Sum* sums) {
  KVASIR_CHECK(depth % kAmxStepDepth<T> == 0 && rows <= kMaxAmxColumnRows);
  const size_t steps = depth / kAmxStepDepth<T>, stride = depth * sizeof(T);
  const auto* const from = static_cast<const char*>(weights);
  // The first of this block's steps that has none to ask for.
  const size_t left = static_cast<const char*>(weights_end) - from;
  const size_t asking = std::min(steps, (left - std::min(left, kAheadBytes)) / kAmxStepBytes);
  const size_t together = rows > kAmxRows ? kStepsTogether : steps;
  for (size_t begin = 0; begin < steps; begin += together) {
    const size_t end = std::min(steps, begin + together);
    for (size_t row = 0; row < rows; row += kAmxRows) {
      const T* const a = x + row * depth;
      Sum* const c = sums + row * kAmxColumns;
      if (begin == 0) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      } else {
        _tile_loadd(0, c, kSumRowBytes);
        _tile_loadd(1, c + kTileColumns, kSumRowBytes);
        _tile_loadd(2, c + 2 * kTileColumns, kSumRowBytes);
        _tile_loadd(3, c + 3 * kTileColumns, kSumRowBytes);
      }
      size_t step = begin;
      for (; row == 0 && step < std::min(end, asking); ++step) {
        Step<Columns, true>(reinterpret_cast<const char*>(a + step * kAmxStepDepth<T>), stride,
                            from + step * kAmxStepBytes);
      }
      for (; step < end; ++step) {
        Step<Columns, false>(reinterpret_cast<const char*>(a + step * kAmxStepDepth<T>), stride,
                             from + step * kAmxStepBytes);
      }
      _tile_stored(0, c, kSumRowBytes);
      _tile_stored(1, c + kTileColumns, kSumRowBytes);
      _tile_stored(2, c + 2 * kTileColumns, kSumRowBytes);
      _tile_stored(3, c + 3 * kTileColumns, kSumRowBytes);
    }
  }
}

}  // namespace

void AmxColumnProduct(const bf16* x, size_t rows, size_t depth, const void* weights,
                      const void* weights_end, float* sums) {
  Product<Bf16Columns>(x, rows, depth, weights, weights_end, sums);
}

void AmxColumnProduct(const uint8_t* x, size_t rows, size_t depth, const void* weights,
                      const void* weights_end, int32_t* sums) {
  Product<UnsignedBySignedColumns>(x, rows, depth, weights, weights_end, sums);
}

}  // namespace kvasir
KVASIR_AMX_END

#else

namespace kvasir {

void AmxColumnProduct(const bf16*, size_t, size_t, const void*, const void*, float*) {
  KVASIR_CHECK(false);
}
void AmxColumnProduct(const uint8_t*, size_t, size_t, const void*, const void*, int32_t*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir

#endif
