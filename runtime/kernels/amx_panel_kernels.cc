#include "runtime/kernels/amx_panel_kernels.h"

#include "base/check.h"
#include "hwy/highway.h"

#if HWY_ARCH_X86_64 && defined(__linux__)

#include <immintrin.h>

#include <algorithm>

#include "runtime/kernels/amx_target-inl.h"

KVASIR_AMX_BEGIN
namespace kvasir {
namespace {

constexpr size_t kLineBytes = 64;
constexpr size_t kSumRowBytes = kAmxColumns * 4;
constexpr size_t kTileColumns = 16;
constexpr size_t kTileRows = 16;

// C: tiles 0 to 3; A: 4 and 5; B: 6 and 7.
struct Bf16Panel {
  static void Add00() { _tile_dpbf16ps(0, 4, 6); }
  static void Add01() { _tile_dpbf16ps(1, 4, 7); }
  static void Add10() { _tile_dpbf16ps(2, 5, 6); }
  static void Add11() { _tile_dpbf16ps(3, 5, 7); }
};

struct UnsignedBySignedPanel {
  static void Add00() { _tile_dpbusd(0, 4, 6); }
  static void Add01() { _tile_dpbusd(1, 4, 7); }
  static void Add10() { _tile_dpbusd(2, 5, 6); }
  static void Add11() { _tile_dpbusd(3, 5, 7); }
};

// One or two tiles of rows. a1: the second's, unless there is one only.
template <typename Panel, bool kTwo, typename Sum>
inline void Block(const char* a0, const char* a1, const char* panel, size_t steps, bool first,
                  Sum* sums) {
  Sum* const second = sums + kTileRows * kAmxColumns;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kTwo) _tile_zero(2);
    if constexpr (kTwo) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kSumRowBytes);
    _tile_loadd(1, sums + kTileColumns, kSumRowBytes);
    if constexpr (kTwo) _tile_loadd(2, second, kSumRowBytes);
    if constexpr (kTwo) _tile_loadd(3, second + kTileColumns, kSumRowBytes);
  }
  for (size_t s = 0; s < steps; ++s) {
    const char* const b = panel + s * 2 * kAmxTileBytes;
    _tile_loadd(6, b, kLineBytes);
    _tile_loadd(4, a0 + s * kAmxTileBytes, kLineBytes);
    Panel::Add00();
    _tile_loadd(7, b + kAmxTileBytes, kLineBytes);
    Panel::Add01();
    if constexpr (kTwo) {
      _tile_loadd(5, a1 + s * kAmxTileBytes, kLineBytes);
      Panel::Add10();
      Panel::Add11();
    }
  }
  _tile_stored(0, sums, kSumRowBytes);
  _tile_stored(1, sums + kTileColumns, kSumRowBytes);
  if constexpr (kTwo) _tile_stored(2, second, kSumRowBytes);
  if constexpr (kTwo) _tile_stored(3, second + kTileColumns, kSumRowBytes);
}

template <typename Panel, typename T, typename Sum>
void Product(const T* tiles, size_t row_tiles, size_t tile_stride, const void* panel, size_t steps,
             bool first, UpcomingLines::Lines upcoming, Sum* sums) {
  KVASIR_CHECK(steps <= kMaxAmxPanelSteps);
  const char* const a = reinterpret_cast<const char*>(tiles);
  const char* const b = static_cast<const char*>(panel);
  const size_t blocks = (row_tiles + 1) / 2;
  size_t line = 0;
  for (size_t block = 0; block < blocks; ++block) {
    const char* const a0 = a + 2 * block * tile_stride;
    Sum* const c = sums + 2 * block * kTileRows * kAmxColumns;
    if (2 * block + 1 < row_tiles) {
      Block<Panel, true>(a0, a0 + tile_stride, b, steps, first, c);
    } else {
      Block<Panel, false>(a0, nullptr, b, steps, first, c);
    }
    for (const size_t end = upcoming.count * (block + 1) / blocks; line < end; ++line)
      _mm_prefetch(upcoming[line], _MM_HINT_T1);
  }
}

}  // namespace

void PackAmxRowTiles(const void* x, size_t row_bytes, void* tiles) {
  const auto* const from = static_cast<const char*>(x);
  auto* const to = static_cast<char*>(tiles);
  for (size_t s = 0; s < row_bytes / kLineBytes; ++s) {
    for (size_t r = 0; r < kTileRows; ++r) {
      _mm512_store_si512(to + s * kAmxTileBytes + r * kLineBytes,
                         _mm512_loadu_si512(from + r * row_bytes + s * kLineBytes));
    }
  }
}

void PackAmxPanel(const void* weights, size_t half, size_t steps, void* panel) {
  constexpr size_t kWordRowBytes = kAmxStepBytes / 16;
  const auto* const from = static_cast<const char*>(weights) + half * kWordRowBytes / 2;
  auto* const to = static_cast<char*>(panel);
  for (size_t s = 0; s < steps; ++s) {
    for (size_t word = 0; word < 16; ++word) {
      const char* const row = from + s * kAmxStepBytes + word * kWordRowBytes;
      char* const out = to + s * 2 * kAmxTileBytes + word * kLineBytes;
      _mm512_store_si512(out, _mm512_load_si512(row));
      _mm512_store_si512(out + kAmxTileBytes, _mm512_load_si512(row + kLineBytes));
    }
  }
  // GCC 12's tile loads do not say that they read memory.
  asm volatile("" ::: "memory");
}

void AmxPanelProduct(const bf16* tiles, size_t row_tiles, size_t tile_stride, const void* panel,
                     size_t steps, bool first, UpcomingLines::Lines upcoming, float* sums) {
  Product<Bf16Panel>(tiles, row_tiles, tile_stride, panel, steps, first, upcoming, sums);
}

void AmxPanelProduct(const uint8_t* tiles, size_t row_tiles, size_t tile_stride, const void* panel,
                     size_t steps, bool first, UpcomingLines::Lines upcoming, int32_t* sums) {
  Product<UnsignedBySignedPanel>(tiles, row_tiles, tile_stride, panel, steps, first, upcoming,
                                 sums);
}

}  // namespace kvasir
KVASIR_AMX_END

#else

namespace kvasir {

void PackAmxRowTiles(const void*, size_t, void*) { KVASIR_CHECK(false); }
void PackAmxPanel(const void*, size_t, size_t, void*) { KVASIR_CHECK(false); }
void AmxPanelProduct(const bf16*, size_t, size_t, const void*, size_t, bool, UpcomingLines::Lines,
                     float*) {
  KVASIR_CHECK(false);
}
void AmxPanelProduct(const uint8_t*, size_t, size_t, const void*, size_t, bool,
                     UpcomingLines::Lines, int32_t*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir

#endif
