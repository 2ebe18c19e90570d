#include "runtime/kernels/amx_attention_kernels.h"

#include "base/check.h"
#include "hwy/highway.h"
#include "runtime/kernels/bf16_attention_kernels.h"

#if HWY_ARCH_X86_64 && defined(__linux__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>

#include "runtime/kernels/amx_target-inl.h"
#include "runtime/kernels/avx512_bf16-inl.h"

KVASIR_AMX_BEGIN
namespace kvasir {
namespace {

constexpr AmxTileConfig MakeFullTiles() {
  AmxTileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = 64;
    config.rows[tile] = 16;
  }
  return config;
}

constexpr AmxTileConfig kFullTiles = MakeFullTiles();

// Which instruction multiplies A by B, and what C holds. A: tiles 4 and 5, B: 6 and 7, C: 0 to 3.
struct Bf16Words {
  using Sum = float;
  static void Add00() { _tile_dpbf16ps(0, 4, 6); }
  static void Add01() { _tile_dpbf16ps(1, 4, 7); }
  static void Add10() { _tile_dpbf16ps(2, 5, 6); }
  static void Add11() { _tile_dpbf16ps(3, 5, 7); }
};

struct SignedBySigned {
  using Sum = int32_t;
  static void Add00() { _tile_dpbssd(0, 4, 6); }
  static void Add01() { _tile_dpbssd(1, 4, 7); }
  static void Add10() { _tile_dpbssd(2, 5, 6); }
  static void Add11() { _tile_dpbssd(3, 5, 7); }
};

struct SignedByUnsigned {
  using Sum = int32_t;
  static void Add00() { _tile_dpbsud(0, 4, 6); }
  static void Add01() { _tile_dpbsud(1, 4, 7); }
  static void Add10() { _tile_dpbsud(2, 5, 6); }
  static void Add11() { _tile_dpbsud(3, 5, 7); }
};

// GCC 12's tile intrinsics are macros that print the tile's number.
template <int kTile>
inline void StoreWholeTile(void* to, size_t stride_bytes) {
  if constexpr (kTile == 0) _tile_stored(0, to, stride_bytes);
  if constexpr (kTile == 1) _tile_stored(1, to, stride_bytes);
  if constexpr (kTile == 2) _tile_stored(2, to, stride_bytes);
  if constexpr (kTile == 3) _tile_stored(3, to, stride_bytes);
}

// Stores the first `rows` rows of C tile kTile.
template <int kTile, typename Sum>
inline void StoreTile(Sum* c, size_t c_stride, size_t rows) {
  if (rows >= 16) {
    StoreWholeTile<kTile>(c, c_stride * sizeof(Sum));
    return;
  }
  alignas(64) Sum whole[16 * 16];
  StoreWholeTile<kTile>(whole, 64);
  for (size_t r = 0; r < rows; ++r) std::memcpy(c + r * c_stride, whole + 16 * r, 64);
}

// One or two row tiles, of which `rows` rows are wanted, by one or two column tiles.
template <typename Words, bool kTwoRows, bool kTwoColumns>
inline void ProductBlock(const uint32_t* a, size_t a_stride, size_t rows, size_t depth,
                         const uint32_t* b, size_t b_stride, typename Words::Sum* c,
                         size_t c_stride, bool accumulate, UpcomingLines::Lines upcoming) {
  if (accumulate) {
    const size_t c_bytes = c_stride * sizeof(*c);
    _tile_loadd(0, c, c_bytes);
    if constexpr (kTwoColumns) _tile_loadd(1, c + 16, c_bytes);
    if constexpr (kTwoRows) _tile_loadd(2, c + 16 * c_stride, c_bytes);
    if constexpr (kTwoRows && kTwoColumns) _tile_loadd(3, c + 16 * c_stride + 16, c_bytes);
  } else {
    _tile_zero(0);
    if constexpr (kTwoColumns) _tile_zero(1);
    if constexpr (kTwoRows) _tile_zero(2);
    if constexpr (kTwoRows && kTwoColumns) _tile_zero(3);
  }
  size_t line = 0;
  const size_t lines_per_step = (upcoming.count * kAmxWords + depth - 1) / depth;
  for (size_t k = 0; k < depth; k += kAmxWords) {
    _tile_loadd(6, b + k * b_stride, b_stride * sizeof(uint32_t));
    _tile_loadd(4, a + k, a_stride * sizeof(uint32_t));
    Words::Add00();
    if constexpr (kTwoColumns) {
      _tile_loadd(7, b + k * b_stride + 16, b_stride * sizeof(uint32_t));
      Words::Add01();
    }
    if constexpr (kTwoRows) {
      _tile_loadd(5, a + 16 * a_stride + k, a_stride * sizeof(uint32_t));
      Words::Add10();
      if constexpr (kTwoColumns) Words::Add11();
    }
    // Into the second level: it is read when this chunk is done.
    for (size_t end = std::min(upcoming.count, line + lines_per_step); line < end; ++line)
      _mm_prefetch(upcoming[line], _MM_HINT_T1);
  }
  StoreTile<0>(c, c_stride, rows);
  if constexpr (kTwoColumns) StoreTile<1>(c + 16, c_stride, rows);
  if constexpr (kTwoRows) StoreTile<2>(c + 16 * c_stride, c_stride, rows - 16);
  if constexpr (kTwoRows && kTwoColumns) {
    StoreTile<3>(c + 16 * c_stride + 16, c_stride, rows - 16);
  }
}

template <typename Words>
void Product(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
             size_t b_stride, size_t cols, typename Words::Sum* c, size_t c_stride, bool accumulate,
             UpcomingLines* upcoming) {
  // Lines that one block asks for: as many as its operands have rows.
  const size_t lines = 4 * depth;
  for (size_t j = 0; j < cols; j += 32) {
    const bool two_columns = j + 32 <= cols;
    for (size_t r = 0; r < rows; r += 32) {
      const uint32_t* block_a = a + r * a_stride;
      auto* block_c = c + r * c_stride + j;
      const UpcomingLines::Lines ahead = upcoming->Take(lines);
      const auto block =
          rows - r > 16
              ? (two_columns ? ProductBlock<Words, true, true> : ProductBlock<Words, true, false>)
              : (two_columns ? ProductBlock<Words, false, true>
                             : ProductBlock<Words, false, false>);
      block(block_a, a_stride, rows - r, depth, b + j, b_stride, block_c, c_stride, accumulate,
            ahead);
    }
  }
}

// What multiplies rows of K as they are stored.
template <typename T>
using KeyWordsOf = std::conditional_t<sizeof(T) == 2, Bf16Words, SignedBySigned>;

// One or two groups of 16 keys by one or two tiles of 16 queries.
template <typename Words, bool kTwoKeys, bool kTwoQueries>
inline void ScoreGroups(const char* keys, size_t row_bytes, size_t steps, const uint32_t* columns,
                        const char* ahead, typename Words::Sum* sums, size_t sums_stride) {
  _tile_zero(0);
  if constexpr (kTwoQueries) _tile_zero(1);
  if constexpr (kTwoKeys) _tile_zero(2);
  if constexpr (kTwoKeys && kTwoQueries) _tile_zero(3);
  constexpr size_t kTileWords = kAmxWords * 16;
  for (size_t k = 0; k < steps; ++k) {
    _tile_loadd(6, columns + k * kTileWords, 64);
    _tile_loadd(4, keys + 64 * k, row_bytes);
    Words::Add00();
    if constexpr (kTwoQueries) {
      _tile_loadd(7, columns + (steps + k) * kTileWords, 64);
      Words::Add01();
    }
    if constexpr (kTwoKeys) {
      _tile_loadd(5, keys + 16 * row_bytes + 64 * k, row_bytes);
      Words::Add10();
      if constexpr (kTwoQueries) Words::Add11();
    }
    // As many lines as are read.
    if (ahead == nullptr) continue;
    for (int i = 0; i < (kTwoKeys ? 32 : 16); ++i, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
  }
  _tile_stored(0, sums, 64);
  if constexpr (kTwoQueries) _tile_stored(1, sums + sums_stride, 64);
  if constexpr (kTwoKeys) _tile_stored(2, sums + 16 * 16, 64);
  if constexpr (kTwoKeys && kTwoQueries) _tile_stored(3, sums + sums_stride + 16 * 16, 64);
}

template <typename T>
void ScoreKeysAs(const T* keys, size_t count, size_t dim, const T* ahead, const uint32_t* columns,
                 size_t rows, typename KeyWordsOf<T>::Sum* sums, size_t sums_stride) {
  using Words = KeyWordsOf<T>;
  // Rows past the last key, and elements past the last dimension, are not looked at: there the keys
  // are copied between zeros.
  constexpr size_t kMaxRowBytes = 2048;
  alignas(64) char copied[16 * kMaxRowBytes];
  const size_t steps = (dim * sizeof(T) + 63) / 64, padded_bytes = 64 * steps;
  const bool two_queries = rows > 16;
  for (size_t t = 0; t < count;) {
    const char* from = reinterpret_cast<const char*>(keys + t * dim);
    const char* line = ahead == nullptr ? nullptr : reinterpret_cast<const char*>(ahead + t * dim);
    if (dim * sizeof(T) == padded_bytes && t + 32 <= count) {
      (two_queries ? ScoreGroups<Words, true, true>
                   : ScoreGroups<Words, true, false>)(from, padded_bytes, steps, columns, line,
                                                      sums + t * 16, sums_stride);
      t += 32;
      continue;
    }
    if (dim * sizeof(T) != padded_bytes || t + 16 > count) {
      KVASIR_CHECK(padded_bytes <= kMaxRowBytes);
      std::memset(copied, 0, 16 * padded_bytes);
      for (size_t i = 0; i < std::min<size_t>(16, count - t); ++i)
        std::memcpy(copied + i * padded_bytes, from + i * dim * sizeof(T), dim * sizeof(T));
      // GCC 12's tile loads do not say that they read memory.
      asm volatile("" ::: "memory");
      from = copied;
    }
    (two_queries ? ScoreGroups<Words, false, true>
                 : ScoreGroups<Words, false, false>)(from, padded_bytes, steps, columns, line,
                                                     sums + t * 16, sums_stride);
    t += 16;
  }
}

// 64 bytes, or the first `bytes` of them and zeros.
inline __m512i LoadBytes(const void* from, size_t bytes) {
  if (bytes >= 64) return _mm512_loadu_si512(from);
  return _mm512_maskz_loadu_epi8((__mmask64{1} << bytes) - 1, from);
}

}  // namespace

void ConfigureAmxTiles() { _tile_loadconfig(&kFullTiles); }
void ReleaseAmxTiles() { _tile_release(); }

void AmxProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                size_t b_stride, size_t cols, float* c, size_t c_stride, bool accumulate,
                UpcomingLines* upcoming) {
  Product<Bf16Words>(a, a_stride, rows, depth, b, b_stride, cols, c, c_stride, accumulate,
                     upcoming);
}

void AmxProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                size_t b_stride, size_t cols, int32_t* c, size_t c_stride, bool accumulate,
                UpcomingLines* upcoming) {
  Product<SignedByUnsigned>(a, a_stride, rows, depth, b, b_stride, cols, c, c_stride, accumulate,
                            upcoming);
}

void AmxScoreKeys(const bf16* keys, size_t count, size_t dim, const void* ahead,
                  const uint32_t* columns, size_t rows, float* sums, size_t sums_stride) {
  ScoreKeysAs(keys, count, dim, static_cast<const bf16*>(ahead), columns, rows, sums, sums_stride);
}

void AmxScoreKeys(const int8_t* keys, size_t count, size_t dim, const void* ahead,
                  const uint32_t* columns, size_t rows, int32_t* sums, size_t sums_stride) {
  ScoreKeysAs(keys, count, dim, static_cast<const int8_t*>(ahead), columns, rows, sums,
              sums_stride);
}

void AmxScoreRows(const void* sums, size_t sums_stride, size_t rows, size_t cols, void* scores,
                  size_t scores_stride) {
  for (size_t q = 0; 16 * q < rows; ++q) {
    const auto* from = static_cast<const uint32_t*>(sums) + q * sums_stride;
    auto* to = static_cast<uint32_t*>(scores) + 16 * q * scores_stride;
    const size_t live = std::min<size_t>(16, rows - 16 * q);
    for (size_t t = 0; t < cols; t += 16) {
      __m512i row[16], column[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) row[i] = _mm512_loadu_si512(from + (t + i) * 16);
      avx512::Transpose(row, column);
      for (size_t r = 0; r < live; ++r) _mm512_storeu_si512(to + r * scores_stride + t, column[r]);
    }
  }
}

void AmxQueryColumns(const uint32_t* queries, size_t stride, size_t rows, size_t depth,
                     uint32_t* columns) {
  for (size_t q = 0; q < rows; q += 16) {
    for (size_t w = 0; w < depth; w += kAmxWords) {
      __m512i row[16], column[16];
#pragma GCC unroll 16
      for (size_t r = 0; r < 16; ++r) {
        row[r] = q + r < rows ? _mm512_loadu_si512(queries + (q + r) * stride + w)
                              : _mm512_setzero_si512();
      }
      avx512::Transpose(row, column);
#pragma GCC unroll 16
      for (size_t i = 0; i < 16; ++i)
        _mm512_storeu_si512(columns + q * depth + (w + i) * 16, column[i]);
    }
  }
}

void AmxPackValues(const bf16* values, size_t count, size_t padded, size_t stride, size_t dim,
                   const void* ahead, uint32_t* out) {
  const __m512i low = _mm512_load_si512(avx512::kInterleave.low);
  const __m512i high = _mm512_load_si512(avx512::kInterleave.high);
  const size_t width = RoundUpAmx(dim);
  const auto* next = static_cast<const bf16*>(ahead);
  size_t t = 0;
  if (dim % 32 == 0) {
    for (; t + 2 <= count; t += 2) {
      const bf16* first = values + t * stride;
      uint32_t* to = out + t / 2 * width;
      for (size_t d = 0; d < dim; d += 32) {
        avx512::Prefetch(next, t * stride + 2 * d);
        avx512::Prefetch(next, t * stride + 2 * d + 32);
        const __m512i a = _mm512_loadu_si512(first + d), b = _mm512_loadu_si512(first + stride + d);
        _mm512_storeu_si512(to + d, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(to + d + 16, _mm512_permutex2var_epi16(a, high, b));
      }
    }
  }
  for (; t < padded; t += 2) {
    const bf16* first = values + t * stride;
    for (size_t d = 0; d < dim; d += 32) {
      const size_t bytes = sizeof(bf16) * std::min<size_t>(32, dim - d);
      const __m512i a = t < count ? LoadBytes(first + d, bytes) : _mm512_setzero_si512();
      const __m512i b =
          t + 1 < count ? LoadBytes(first + stride + d, bytes) : _mm512_setzero_si512();
      uint32_t* to = out + t / 2 * width + d;
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
      if (d + 16 < width) _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(a, high, b));
    }
  }
}

void AmxPackValues(const int8_t* values, size_t count, size_t padded, size_t stride, size_t dim,
                   const void* ahead, uint32_t* out) {
  const size_t width = RoundUpAmx(dim);
  const auto* next = static_cast<const int8_t*>(ahead);
  for (size_t t = 0; t < padded; t += 4) {
    for (size_t d = 0; d < dim; d += 64) {
      const size_t bytes = std::min<size_t>(64, dim - d);
      __m512i row[4];
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        avx512::Prefetch(next, (t + i) * stride + d);
        row[i] = t + i < count ? LoadBytes(values + (t + i) * stride + d, bytes)
                               : _mm512_setzero_si512();
      }
      // Pairs of bytes, then quads: word 4c + i of each 128-bit lane is column 4c + i of the lane.
      const __m512i low01 = _mm512_unpacklo_epi8(row[0], row[1]);
      const __m512i high01 = _mm512_unpackhi_epi8(row[0], row[1]);
      const __m512i low23 = _mm512_unpacklo_epi8(row[2], row[3]);
      const __m512i high23 = _mm512_unpackhi_epi8(row[2], row[3]);
      const __m512i quad[4] = {
          _mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
          _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
      // Lane l of quad c holds columns 16 l + 4 c and on: gather each lane's four.
      const __m512i a = _mm512_shuffle_i32x4(quad[0], quad[1], 0x44);  // lanes 0, 1 of both
      const __m512i b = _mm512_shuffle_i32x4(quad[2], quad[3], 0x44);
      const __m512i c = _mm512_shuffle_i32x4(quad[0], quad[1], 0xee);  // lanes 2, 3
      const __m512i e = _mm512_shuffle_i32x4(quad[2], quad[3], 0xee);
      uint32_t* to = out + t / 4 * width + d;
      _mm512_storeu_si512(to, _mm512_shuffle_i32x4(a, b, 0x88));
      if (d + 16 < width) _mm512_storeu_si512(to + 16, _mm512_shuffle_i32x4(a, b, 0xdd));
      if (d + 32 < width) _mm512_storeu_si512(to + 32, _mm512_shuffle_i32x4(c, e, 0x88));
      if (d + 48 < width) _mm512_storeu_si512(to + 48, _mm512_shuffle_i32x4(c, e, 0xdd));
    }
  }
}

void AmxWeightProduct(const uint32_t* high, const uint32_t* low, size_t a_stride, size_t rows,
                      size_t depth, const uint32_t* b, size_t b_stride, size_t cols, int32_t* c,
                      size_t c_stride, bool accumulate, UpcomingLines* upcoming) {
  alignas(64) int32_t high_sums[16 * 16], low_sums[16 * 16];
  const size_t lines = 2 * depth;
  for (size_t j = 0; j < cols; j += 16) {
    for (size_t r = 0; r < rows; r += 16) {
      const UpcomingLines::Lines ahead = upcoming->Take(lines);
      size_t line = 0;
      _tile_zero(0);
      _tile_zero(1);
      for (size_t k = 0; k < depth; k += kAmxWords) {
        _tile_loadd(6, b + k * b_stride + j, b_stride * sizeof(uint32_t));
        _tile_loadd(4, high + r * a_stride + k, a_stride * sizeof(uint32_t));
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(5, low + r * a_stride + k, a_stride * sizeof(uint32_t));
        _tile_dpbusd(1, 5, 6);
        for (size_t end = std::min(ahead.count, line + 2 * kAmxWords); line < end; ++line)
          _mm_prefetch(ahead[line], _MM_HINT_T1);
      }
      _tile_stored(0, high_sums, 64);
      _tile_stored(1, low_sums, 64);
      int32_t* to = c + r * c_stride + j;
      for (size_t i = 0; i < std::min<size_t>(16, rows - r); ++i) {
        const __m512i upper = _mm512_slli_epi32(_mm512_load_si512(high_sums + 16 * i), 8);
        __m512i sum = _mm512_add_epi32(upper, _mm512_load_si512(low_sums + 16 * i));
        if (accumulate) sum = _mm512_add_epi32(sum, _mm512_loadu_si512(to + i * c_stride));
        _mm512_storeu_si512(to + i * c_stride, sum);
      }
    }
  }
}

void SplitWeights(const int16_t* weights, size_t count, int8_t* high, uint8_t* low) {
  for (size_t i = 0; i < count; i += 32) {
    const __m512i w = _mm512_loadu_si512(weights + i);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(low + i), _mm512_cvtepi16_epi8(w));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(high + i),
                        _mm512_cvtepi16_epi8(_mm512_srai_epi16(w, 8)));
  }
}

}  // namespace kvasir
KVASIR_AMX_END

namespace kvasir {
namespace {

std::atomic<bool> forbidden{false};

// CPUID leaf 7: AMX-BF16, AMX-TILE, AMX-INT8.
bool CpuHasAmx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kWanted = 1u << 22 | 1u << 24 | 1u << 25;
  return (edx & kWanted) == kWanted;
}

// Linux lends the tiles' registers on request, to the whole process, from 5.16 on.
bool SystemLendsTiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool HasAmxProducts() {
  static const bool usable = CpuHasAmx() && SystemLendsTiles();
  return usable && !forbidden && HasBf16Products();
}

void ForbidAmxProducts() { forbidden = true; }

}  // namespace kvasir

#else  // no such instructions: HasAmxProducts() says so, and nobody calls these

namespace kvasir {

bool HasAmxProducts() { return false; }
void ForbidAmxProducts() {}
void ConfigureAmxTiles() { KVASIR_CHECK(false); }
void ReleaseAmxTiles() { KVASIR_CHECK(false); }
void AmxProduct(const uint32_t*, size_t, size_t, size_t, const uint32_t*, size_t, size_t, float*,
                size_t, bool, UpcomingLines*) {
  KVASIR_CHECK(false);
}
void AmxProduct(const uint32_t*, size_t, size_t, size_t, const uint32_t*, size_t, size_t, int32_t*,
                size_t, bool, UpcomingLines*) {
  KVASIR_CHECK(false);
}
void AmxScoreKeys(const bf16*, size_t, size_t, const void*, const uint32_t*, size_t, float*,
                  size_t) {
  KVASIR_CHECK(false);
}
void AmxScoreKeys(const int8_t*, size_t, size_t, const void*, const uint32_t*, size_t, int32_t*,
                  size_t) {
  KVASIR_CHECK(false);
}
void AmxScoreRows(const void*, size_t, size_t, size_t, void*, size_t) { KVASIR_CHECK(false); }
void AmxQueryColumns(const uint32_t*, size_t, size_t, size_t, uint32_t*) { KVASIR_CHECK(false); }
void AmxPackValues(const bf16*, size_t, size_t, size_t, size_t, const void*, uint32_t*) {
  KVASIR_CHECK(false);
}
void AmxPackValues(const int8_t*, size_t, size_t, size_t, size_t, const void*, uint32_t*) {
  KVASIR_CHECK(false);
}
void AmxWeightProduct(const uint32_t*, const uint32_t*, size_t, size_t, size_t, const uint32_t*,
                      size_t, size_t, int32_t*, size_t, bool, UpcomingLines*) {
  KVASIR_CHECK(false);
}
void SplitWeights(const int16_t*, size_t, int8_t*, uint8_t*) { KVASIR_CHECK(false); }

}  // namespace kvasir
#endif
