// The products of block_rows.h, called by block_kernels.cc where the CPU has what they need.

#include <algorithm>

#include "runtime/kernels/blocks/block_kernel_table.h"
#include "runtime/kernels/blocks/block_rows.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "runtime/kernels/avx512_vnni_target-inl.h"

KVASIR_AVX512_VNNI_BEGIN

#define KVASIR_BLOCK_NAMESPACE block_rows

#include "runtime/kernels/blocks/block_simd_avx512-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_walk-inl.h"

namespace kvasir::block_rows {

// Two panels by four rows are eight chains of sums, as many as hide a product's latency, and a code
// that is loaded meets four rows, an input two panels.
constexpr int kRowsTogether = 4;
constexpr int kPanelsTogether = 2;

constexpr int kStepCodes = kPanelRows * kStepInputs;
constexpr int kVectorFloats = kPanelRows;

// What kernels differ by: groups per step, and what a group has beside its scale.
struct Form {
  int parts = 1;
  bool mins = false;
  bool zero_points = false;

  constexpr int vectors() const { return mins || zero_points ? 2 : 1; }
  // A step as it is multiplied: codes in quads, then for each part floats of scales, and of mins or
  // (integers) zero points less than 0.
  constexpr int record_bytes() const { return kStepCodes + parts * vectors() * kVectorBytes; }
};

template <BlockKind kKind>
constexpr Form FormOf() {
  return {kKind.parts_per_step(), kKind.mins, kKind.zero_points};
}

// Of the inputs of each row, by part of the chunk.
struct Factors {
  float scales[kRowsTogether][2 * kChunkSteps];
  int32_t sums[kRowsTogether][2 * kChunkSteps];       // times what is subtracted from every code
  float scaled_sums[kRowsTogether][2 * kChunkSteps];  // with mins
};

template <BlockKind kKind, int kQuad = 0>
KVASIR_INLINE void StoreCodes(const uint8_t* step, I table, uint8_t* to) {
  _mm512_storeu_si512(to + kQuad * kVectorBytes,
                      FormCodes<kKind>(LoadCodes<kKind.bits, kQuad>(step, 0), table));
  if constexpr (kQuad < 7) StoreCodes<kKind, kQuad + 1>(step, table, to);
}

// The chunk at `at` as records.
template <BlockKind kKind>
KVASIR_INLINE void UnpackChunk(const uint8_t* at, int steps, I table, uint8_t* record) {
  constexpr Form kForm = FormOf<kKind>();
  Chunk<kKind> chunk;
  chunk.Enter(at, steps, 0);
  for (int step = 0; step < steps; ++step, record += kForm.record_bytes()) {
    const uint8_t* codes = chunk.codes + step * kKind.step_bytes();
    StoreCodes<kKind>(codes, table, record);
    auto* to = reinterpret_cast<float*>(record + kStepCodes);
    for (int part = 0; part < kForm.parts; ++part, to += kForm.vectors() * kVectorFloats) {
      const int g = kKind.group_of(step, part);
      Simd::Store(chunk.Scale(g, 0), to);
      if constexpr (kForm.mins) Simd::Store(chunk.Min(g, 0), to + kVectorFloats);
      if constexpr (kForm.zero_points) {
        _mm512_storeu_si512(to + kVectorFloats, Simd::Negate(chunk.ZeroPoints(g, 0)));
      }
    }
  }
}

// Of rows [first, first + rows) from input k on. `zero`: in each of 16 integers.
template <Form kForm>
KVASIR_INLINE void FindFactors(const QuantizedInputs& x, int64_t first, int64_t rows, int64_t k,
                               int steps, I zero, Factors* factors) {
  const int64_t groups = x.inputs / kStepInputs;
  const auto step_mask = static_cast<__mmask8>((1u << steps) - 1);
  const auto half_mask = static_cast<__mmask16>((1u << 2 * steps) - 1);
  for (int64_t r = 0; r < rows; ++r) {
    // A lane per part, but of sums two while steps are not cut.
    I sums = _mm512_maskz_loadu_epi32(half_mask, x.sums + (first + r) * 2 * groups + k / 16);
    F scales = _mm512_castps256_ps512(
        _mm256_maskz_loadu_ps(step_mask, x.scales + (first + r) * groups + k / kStepInputs));
    if constexpr (kForm.parts == 1) {
      sums = _mm512_add_epi32(sums, _mm512_srli_epi64(sums, 32));
      sums = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(sums));
    } else {
      const I twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
      scales = _mm512_permutexvar_ps(twice, scales);
    }
    Simd::Store(scales, factors->scales[r]);
    _mm512_storeu_si512(factors->sums[r],
                        kForm.zero_points ? sums : Simd::Negate(Simd::MulInts(sums, zero)));
    if constexpr (kForm.mins) {
      Simd::Store(Simd::Mul(scales, Simd::ToFloat(sums)), factors->scaled_sums[r]);
    }
  }
}

// `sums`, rows at a distance of `sums_stride`, += the products of a chunk; = with `begins`.
template <Form kForm, int kPanels>
KVASIR_NOINLINE void Multiply(const uint8_t* const (&records)[kPanels], int steps, const int8_t* x,
                              int64_t x_stride, const Factors& factors, bool begins, float* sums,
                              int64_t sums_stride) {
  F totals[kPanels][kRowsTogether];
#pragma GCC unroll 4
  for (int r = 0; r < kRowsTogether; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      totals[p][r] =
          begins ? Simd::SetFloats(0.0f) : _mm512_loadu_ps(sums + r * sums_stride + p * kPanelRows);
    }
  }
  for (int step = 0; step < steps; ++step) {
    const int64_t record = int64_t{step} * kForm.record_bytes();
#pragma GCC unroll 2
    for (int part = 0; part < kForm.parts; ++part) {
      const int at = step * kForm.parts + part;
      const int64_t floats = record + kStepCodes + part * kForm.vectors() * kVectorBytes;
      I products[kPanels][kRowsTogether];
#pragma GCC unroll 4
      for (int r = 0; r < kRowsTogether; ++r) {
        const I sum = Simd::SetInts(factors.sums[r][at]);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          products[p][r] =
              kForm.zero_points
                  ? Simd::MulInts(Simd::LoadBytes(records[p] + floats + kVectorBytes), sum)
                  : sum;
        }
      }
      constexpr int kQuads = 8 / kForm.parts;
#pragma GCC unroll 8
      for (int quad = part * kQuads; quad < (part + 1) * kQuads; ++quad) {
        I codes[kPanels];
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          codes[p] = Simd::LoadBytes(records[p] + record + quad * kVectorBytes);
        }
#pragma GCC unroll 4
        for (int r = 0; r < kRowsTogether; ++r) {
          const I inputs = Simd::BroadcastFour(x + r * x_stride + step * kStepInputs + 4 * quad);
#pragma GCC unroll 2
          for (int p = 0; p < kPanels; ++p) {
            products[p][r] = Simd::Dot<true>(products[p][r], codes[p], inputs);
          }
        }
      }
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        const F scale = Simd::LoadFloats(records[p] + floats);
        F min{};
        if constexpr (kForm.mins) min = Simd::LoadFloats(records[p] + floats + kVectorBytes);
#pragma GCC unroll 4
        for (int r = 0; r < kRowsTogether; ++r) {
          const F both = Simd::Mul(scale, Simd::SetFloats(factors.scales[r][at]));
          totals[p][r] = Simd::MulAdd(Simd::ToFloat(products[p][r]), both, totals[p][r]);
          if constexpr (kForm.mins) {
            const F scaled_sum = Simd::SetFloats(factors.scaled_sums[r][at]);
            totals[p][r] = Simd::NegMulAdd(min, scaled_sum, totals[p][r]);
          }
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRowsTogether; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      Simd::Store(totals[p][r], sums + r * sums_stride + p * kPanelRows);
    }
  }
}

// All rows with panels that stay in the first cache level. Meanwhile the `next_bytes` of each of
// the panels come that will be unpacked next.
template <Form kForm, int kPanels>
KVASIR_INLINE void MultiplyAll(const uint8_t* records, int steps, const int8_t* x, int64_t x_stride,
                               int64_t rows, const Factors* factors, bool begins, float* sums,
                               int64_t sums_stride, const BlockPanel* panels, int64_t next,
                               int next_bytes) {
  const auto blocks = static_cast<int>((rows + kRowsTogether - 1) / kRowsTogether);
  const uint8_t* of_panels[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    of_panels[p] = records + int64_t{p} * kChunkSteps * kForm.record_bytes();
  }
  for (int64_t r = 0; r < rows; r += kRowsTogether) {
    for (int p = 0; p < kPanels; ++p) {
      AskAhead(panels[p].data + next, next_bytes, /*ahead=*/0, static_cast<int>(r / kRowsTogether),
               blocks);
    }
    Multiply<kForm, kPanels>(of_panels, steps, x + r * x_stride, x_stride,
                             factors[r / kRowsTogether], begins, sums + r * sums_stride,
                             sums_stride);
  }
}

template <BlockKind kKind>
void Product(const BlockPanel* panels, int count, const QuantizedInputs& x, int64_t rows,
             uint8_t* scratch, float* sums) {
  constexpr Form kForm = FormOf<kKind>();
  constexpr int64_t kRecords = int64_t{kChunkSteps} * kForm.record_bytes();
  static_assert(kRecords <= int64_t{kBlockRecordsBytes});
  static_assert(sizeof(Factors) == kRowsTogether * kRowFactorsBytes);
  auto* const factors = reinterpret_cast<Factors*>(scratch + kPanelsTogether * kRecords);
  I table{};
  if constexpr (kKind.table) table = Simd::LoadTable(panels[0].table);
  const I zero = Simd::SetInts(kKind.signed_codes() ? 128 : panels[0].zero);
  const int64_t all_steps = x.inputs / kStepInputs;
  const int64_t sums_stride = int64_t{count} * kPanelRows;
  int64_t at = 0;  // of the chunk in each panel
  for (int64_t begin = 0; begin < all_steps; begin += kChunkSteps) {
    const int steps = static_cast<int>(std::min<int64_t>(kChunkSteps, all_steps - begin));
    const int64_t next = at + kKind.chunk_bytes(steps);
    const int64_t k = begin * kStepInputs;
    for (int64_t r = 0; r < rows; r += kRowsTogether) {
      FindFactors<kForm>(x, r, std::min<int64_t>(kRowsTogether, rows - r), k, steps, zero,
                         &factors[r / kRowsTogether]);
    }
    for (int p = 0; p < count; p += kPanelsTogether) {
      const int together = std::min(kPanelsTogether, count - p);
      for (int i = 0; i < together; ++i) {
        UnpackChunk<kKind>(panels[p + i].data + at, steps, table, scratch + i * kRecords);
      }
      float* const to = sums + p * kPanelRows;
      if (together == 2) {
        MultiplyAll<kForm, 2>(scratch, steps, x.codes + k, x.stride, rows, factors, begin == 0, to,
                              sums_stride, panels + p, next, kKind.chunk_bytes(kChunkSteps));
      } else {
        MultiplyAll<kForm, 1>(scratch, steps, x.codes + k, x.stride, rows, factors, begin == 0, to,
                              sums_stride, panels + p, next, kKind.chunk_bytes(kChunkSteps));
      }
    }
    at = next;
  }
}

template <BlockKind kKind>
constexpr RowsProduct ProductOf() {
  if constexpr (kKind.e4m3)
    return nullptr;  // codes are no integers
  else
    return &Product<kKind>;
}

template <size_t... kKinds>
constexpr RowsProducts MakeProducts(std::index_sequence<kKinds...>) {
  return {{ProductOf<kBlockKinds[kKinds]>()...}};
}

const RowsProducts& Products() {
  static constexpr RowsProducts products = MakeProducts(std::make_index_sequence<kNumBlockKinds>());
  return products;
}

}  // namespace kvasir::block_rows

KVASIR_AVX512_VNNI_END

#endif  // __x86_64__
