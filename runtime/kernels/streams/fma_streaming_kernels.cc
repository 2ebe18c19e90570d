#include "runtime/kernels/streams/fma_streaming_kernels.h"

#include "base/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#include "runtime/kernels/avx512_bf16-inl.h"
#include "runtime/kernels/row_blocks.h"

KVASIR_AVX512_BF16_BEGIN
namespace kvasir {
namespace {
using namespace avx512;

constexpr size_t kPiece = 8;  // dimensions that are turned at a time
constexpr int kPieceWords = kPiece / 2;
constexpr size_t kMostDims = 640;                          // of a head
constexpr size_t kWidened = kMaxStreamedRows * kMostDims;  // floats of scratch, 30 KiB

// Words of queries and weights are bf16, each of which is used many times: f32 here.
void WidenRows(const uint32_t* words, size_t stride, size_t rows, size_t elements, float* to,
               size_t to_stride) {
  for (size_t r = 0; r < rows; ++r)
    WidenRow(reinterpret_cast<const bf16*>(words + r * stride), elements, to + r * to_stride);
}

// 4 words of 16 keys, `dim` elements apart, as columns of words; keys behind `last` repeat that
// one. Loads put 16 bytes of every fourth key side by side, which leaves half of a transposition's
// shuffles: Intel's CPUs have one port for these.
inline void TurnKeys(const bf16* keys, size_t last, size_t dim, __m512i (&column)[kPieceWords]) {
  const auto load = [=](size_t key) __attribute__((always_inline)) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(keys + std::min(key, last) * dim));
  };
  __m512i row[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    row[i] = _mm512_castsi128_si512(load(i));
    row[i] = _mm512_mask_broadcast_i32x4(row[i], 0x00f0, load(i + 4));
    row[i] = _mm512_mask_broadcast_i32x4(row[i], 0x0f00, load(i + 8));
    row[i] = _mm512_mask_broadcast_i32x4(row[i], 0xf000, load(i + 12));
  }
  TransposeLanes(row, column);
}

// The lines that a run asks for, in the order of their addresses, which the CPU's own prefetchers
// follow: one for each line that it reads. Without rows ahead, the run's own.
inline const char* LinesAhead(const RowRun<bf16>& run) {
  return reinterpret_cast<const char*>(run.ahead == nullptr ? run.rows : run.ahead);
}

// PrefetchLine of lines that there always are: a branch each is 5 % of a single row's time.
inline void Ask(const char* lines, size_t line) { _mm_prefetch(lines + 64 * line, _MM_HINT_T1); }

// Of kGroups groups, of which one alone may end with key `last`: scores behind it become 0. Each
// group's sums are chains of their own, so that a group is turned while the one before is
// multiplied.
template <int kRows, int kGroups>
inline void ScoreGroups(const bf16* keys, size_t last, size_t dim, const char* lines,
                        const float* queries, float* scores, size_t scores_stride) {
  __m512 sums[kRows][kGroups];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) sums[r][g] = _mm512_setzero_ps();
  }
  for (size_t d = 0; d < dim; d += kPiece) {
    const float* const query = queries + d;
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      __m512i column[kPieceWords];
      TurnKeys(keys + g * kColumnGroup * dim + d, kGroups > 1 ? kColumnGroup - 1 : last, dim,
               column);
#pragma GCC unroll 4
      for (int word = 0; word < kPieceWords; ++word) {
        // A piece of 16 keys is as many lines as it has words.
        Ask(lines, (d / kPiece * kGroups + g) * kPieceWords + word);
        const __m512 first = Widen<0>(column[word]), second = Widen<1>(column[word]);
        // The order of VDPBF16PS.
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const __m512 factor = _mm512_set1_ps(query[r * dim + 2 * word + 1]);
          sums[r][g] = _mm512_fmadd_ps(second, factor, sums[r][g]);
        }
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const __m512 factor = _mm512_set1_ps(query[r * dim + 2 * word]);
          sums[r][g] = _mm512_fmadd_ps(first, factor, sums[r][g]);
        }
      }
    }
  }
  const __mmask16 real = FirstLanes(kGroups > 1 ? kColumnGroup : last + 1);
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      _mm512_storeu_ps(scores + r * scores_stride + g * kColumnGroup,
                       _mm512_maskz_mov_ps(real, sums[r][g]));
    }
  }
}

template <int kRows>
inline void ScoreRun(const RowRun<bf16>& run, size_t dim, const float* queries, float* scores,
                     size_t scores_stride) {
  const char* const lines = LinesAhead(run);
  size_t t = 0;
  const auto score = [&]<int kGroups>(size_t last) __attribute__((always_inline)) {
    ScoreGroups<kRows, kGroups>(run.rows + t * dim, last, dim, lines + t * dim * sizeof(bf16),
                                queries, scores + t, scores_stride);
  };
  for (; t + 2 * kColumnGroup <= run.count; t += 2 * kColumnGroup)
    score.template operator()<2>(kColumnGroup - 1);
  for (; t < run.count; t += kColumnGroup)
    score.template operator()<1>(std::min(run.count - t, kColumnGroup) - 1);
}

// 16 even columns and 16 odd ones, as a register of bf16 pairs widens to. In a mix under way they
// lie like that.
struct Halves {
  __m512 even, odd;

  static Halves Load(const float* from) {
    return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16)};
  }
  void Store(float* to) const {
    _mm512_storeu_ps(to, even);
    _mm512_storeu_ps(to + 16, odd);
  }
  // Columns [16 * kHalf, 16 * kHalf + 16) in their order.
  template <int kHalf>
  __m512 Columns() const {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8 * kHalf)), odd);
  }
};

// kLoads * 32 columns, `width` of them real: all, or kWhole is false, and loads take a mask and
// longer. weights: f32.
template <int kRows, int kLoads, bool kWhole>
inline void MixColumns(const bf16* values, size_t count, size_t stride, size_t width,
                       const char* lines, const float* weights, size_t weights_stride, float* mix,
                       size_t mix_stride) {
  __mmask16 real[kLoads];  // words
  Halves sums[kRows][kLoads];
#pragma GCC unroll 2
  for (int i = 0; i < kLoads; ++i) {
    real[i] = FirstLanes(width / 2 - std::min<size_t>(width / 2, 16 * i));
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) sums[r][i] = Halves::Load(mix + r * mix_stride + 32 * i);
  }
  const auto add = [&](size_t t) __attribute__((always_inline)) {
    Halves value[kLoads];
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) {
      const bf16* const from = values + t * stride + 32 * i;
      const __m512i pairs =
          kWhole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi32(real[i], from);
      value[i] = {Widen<0>(pairs), Widen<1>(pairs)};
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const __m512 weight = _mm512_set1_ps(weights[r * weights_stride + t]);
#pragma GCC unroll 2
      for (int i = 0; i < kLoads; ++i) {
        sums[r][i].even = _mm512_fmadd_ps(value[i].even, weight, sums[r][i].even);
        sums[r][i].odd = _mm512_fmadd_ps(value[i].odd, weight, sums[r][i].odd);
      }
    }
  };
  size_t t = 0;
  for (; t + 2 <= count; t += 2) {
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) Ask(lines, t * kLoads + i);
    add(t + 1);  // the order of VDPBF16PS, whose words are pairs of positions
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) Ask(lines, (t + 1) * kLoads + i);
    add(t);
  }
  if (t < count) add(t);
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) sums[r][i].Store(mix + r * mix_stride + 32 * i);
  }
}

template <int kRows>
inline void MixRun(const RowRun<bf16>& run, size_t stride, size_t dim, const float* weights,
                   size_t weights_stride, float* sums, size_t sums_stride) {
  constexpr int kLoads = kRows <= 6 ? 2 : 1;  // 24 accumulators at most
  const char* const lines = LinesAhead(run);
  size_t d = 0;
  const auto mix = [&]<int kTaken, bool kWhole>() __attribute__((always_inline)) {
    MixColumns<kRows, kTaken, kWhole>(run.rows + d, run.count, stride, dim - d,
                                      lines + run.count * d * sizeof(bf16), weights, weights_stride,
                                      sums + d, sums_stride);
  };
  for (; dim - d >= 32 * kLoads; d += 32 * kLoads) mix.template operator()<kLoads, true>();
  for (; d < dim; d += 32) mix.template operator()<1, false>();
}

}  // namespace

bool FmasScoreKeys(size_t dim) { return dim % kPiece == 0 && dim <= kMostDims; }
bool FmasMixValues(size_t dim) { return dim % 2 == 0 && dim <= kMostDims; }

void ScoreKeysByFmas(absl::Span<const RowRun<bf16>> runs, size_t dim, const uint32_t* queries,
                     size_t rows, float* scores, size_t scores_stride) {
  KVASIR_CHECK(FmasScoreKeys(dim) && rows <= kMaxStreamedRows);
  alignas(64) float wide[kWidened];
  WidenRows(queries, dim / 2, rows, dim, wide, dim);
  const FlushDenormals flush;
  WithRows<kMaxStreamedRows>(rows, [&]<int kRows>() {
    size_t t = 0;
    for (const RowRun<bf16>& run : runs) {
      ScoreRun<kRows>(run, dim, wide, scores + t, scores_stride);
      t += run.count;
    }
  });
}

void MixValuesByFmas(absl::Span<const RowRun<bf16>> runs, size_t stride, size_t dim,
                     const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
                     size_t mix_stride) {
  KVASIR_CHECK(FmasMixValues(dim) && rows <= kMaxStreamedRows);
  alignas(64) float wide[kMaxStreamedRows * kPanelColumns];
  alignas(64) float halves[kWidened];
  const size_t halves_stride = (dim + 31) / 32 * 32;
  std::fill_n(halves, rows * halves_stride, 0.0f);
  const FlushDenormals flush;
  WithRows<kMaxStreamedRows>(rows, [&]<int kRows>() {
    const uint32_t* words = weights;
    for (const RowRun<bf16>& run : runs) {
      KVASIR_CHECK(run.count <= kPanelColumns);
      WidenRows(words, weights_stride, rows, run.count, wide, kPanelColumns);
      MixRun<kRows>(run, stride, dim, wide, kPanelColumns, halves, halves_stride);
      words += run.count / 2;
    }
  });
  for (size_t r = 0; r < rows; ++r) {
    for (size_t d = 0; d < dim; d += 32) {
      const Halves sums = Halves::Load(halves + r * halves_stride + d);
      float* const to = mix + r * mix_stride + d;
      _mm512_storeu_ps(to, sums.Columns<0>());
      if (d + 16 < dim) _mm512_storeu_ps(to + 16, sums.Columns<1>());
    }
  }
}

}  // namespace kvasir
KVASIR_AVX512_BF16_END

#else

namespace kvasir {

bool FmasScoreKeys(size_t) { return false; }
bool FmasMixValues(size_t) { return false; }
void ScoreKeysByFmas(absl::Span<const RowRun<bf16>>, size_t, const uint32_t*, size_t, float*,
                     size_t) {
  KVASIR_CHECK(false);
}
void MixValuesByFmas(absl::Span<const RowRun<bf16>>, size_t, size_t, const uint32_t*, size_t,
                     size_t, float*, size_t) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir
#endif
