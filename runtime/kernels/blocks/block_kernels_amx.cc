// Block products of more rows than vectors hold sums of, on AMX: the codes of a chunk become signed
// bytes once, in the first cache level, and TDPBSSD multiplies each group of inputs with sixteen
// rows. The sums of a group are scaled as soon as they are there, in the order and with the
// roundings of one row on AVX-512 VNNI (block_kernels-inl.h): the results are equal to the bit.

#include "runtime/kernels/blocks/block_kernel_table.h"

#if defined(__x86_64__) && defined(__linux__)

#include <immintrin.h>

#include <algorithm>

#include "runtime/kernels/amx_target-inl.h"

#define KVASIR_BLOCK_NAMESPACE block_amx
#define KVASIR_BLOCK_NATIVE_BF16

KVASIR_AMX_BEGIN

#include "runtime/kernels/blocks/block_simd_avx512-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_walk-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_unpack-inl.h"

namespace kvasir::block_amx {

constexpr int kTileRows = 16;
constexpr int kStepCodes = kPanelRows * kStepInputs;

// Groups of inputs that are multiplied before their sums are scaled, each in tiles of its own.
constexpr int kGroupsTogether = 4;

// Tiles 0 to 3: sums [rows][16]; 4 and 5: inputs [rows][depth] bytes; 6 and 7: codes [depth / 4]
// [16][4].
AmxTileConfig Tiles(int rows, int depth) {
  AmxTileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = tile == 4 || tile == 5 ? depth : 64;
    config.rows[tile] = tile < 6 ? rows : depth / 4;
  }
  return config;
}

// One group's products.
#define KVASIR_MULTIPLY(NAME, SUMS, INPUTS, CODES)                                                \
  KVASIR_INLINE void NAME(const int8_t* x, int64_t stride, const uint8_t* codes, int32_t* sums) { \
    _tile_zero(SUMS);                                                                             \
    _tile_loadd(INPUTS, x, stride);                                                               \
    _tile_loadd(CODES, codes, kVectorBytes);                                                      \
    _tile_dpbssd(SUMS, INPUTS, CODES);                                                            \
    _tile_stored(SUMS, sums, kPanelRows * sizeof(int32_t));                                       \
  }
KVASIR_MULTIPLY(Multiply0, 0, 4, 6)
KVASIR_MULTIPLY(Multiply1, 1, 5, 7)
KVASIR_MULTIPLY(Multiply2, 2, 4, 6)
KVASIR_MULTIPLY(Multiply3, 3, 5, 7)
#undef KVASIR_MULTIPLY

constexpr int kSumsOfGroup = kTileRows * kPanelRows;

// Two of each in turn: what was stored is loaded from the first cache level, for tiles do not take
// stores that are still under way, and vectors do not take tiles' ones. So codes are made a chunk
// before they are multiplied, and sums are scaled once the next batch's products have been issued.
struct Scratch {
  alignas(64) uint8_t codes[2][kChunkSteps * kStepCodes];
  alignas(64) int32_t sums[2][kGroupsTogether * kSumsOfGroup];
};

// What is subtracted from the codes of a group, in each byte.
template <BlockKind kKind>
KVASIR_INLINE I Zeros(const Chunk<kKind>& chunk, int g, I fixed_zero) {
  if constexpr (kKind.zero_points) {
    const I each_four = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0x00000000);
    return _mm512_shuffle_epi8(chunk.ZeroPoints(g, 0), each_four);
  }
  return fixed_zero;
}

// The codes of a step as signed numbers, quad by quad.
template <BlockKind kKind, int kQuad>
KVASIR_INLINE void ExpandQuads(const Chunk<kKind>& chunk, int step, I table, I fixed_zero,
                               uint8_t* to) {
  I codes = LoadCodes<kKind.bits, kQuad>(chunk.codes + step * kKind.step_bytes(), 0);
  if constexpr (kKind.table) {
    codes = Simd::LookupSigned(table, codes);
  } else {
    const int g = kKind.group_of(step, kQuad * 4 / kKind.inputs_per_part());
    codes = _mm512_sub_epi8(codes, Zeros(chunk, g, fixed_zero));
  }
  _mm512_store_si512(to + kQuad * kVectorBytes, codes);
  if constexpr (kQuad + 1 < kStepInputs / 4) {
    ExpandQuads<kKind, kQuad + 1>(chunk, step, table, fixed_zero, to);
  }
}

// factors[g] = scale of the inputs of group g times the sum of their codes, g < kGroups, of one
// row, from step `step` of all inputs on.
template <BlockKind kKind, int kGroups>
KVASIR_INLINE void MinFactors(const float* scales, const int32_t* sums, float* factors) {
  if constexpr (kKind.parts_per_step() == 1 && kGroups == 4) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums));
    const __m256i wholes = _mm256_add_epi32(halves, _mm256_srli_epi64(halves, 32));
    const __m128 floats = _mm_cvtepi32_ps(_mm256_cvtepi64_epi32(wholes));
    _mm_storeu_ps(factors, _mm_mul_ps(_mm_loadu_ps(scales), floats));
  } else {
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
      const int32_t sum = kKind.parts_per_step() == 1 ? sums[2 * g] + sums[2 * g + 1] : sums[g];
      factors[g] = scales[g / kKind.parts_per_step()] * static_cast<float>(sum);
    }
  }
}

// Products that are multiplied together: up to sixteen rows from `row` on with groups [0, groups)
// of the steps from `step` on of a chunk, whose first input is `k`.
template <BlockKind kKind>
struct Batch {
  Chunk<kKind> chunk;
  int step = 0, groups = 0;
  int row = 0, rows = 0;
  int64_t k = 0;
};

// `codes`: of the batch's first step.
template <BlockKind kKind>
KVASIR_INLINE void Multiply(const Batch<kKind>& batch, const QuantizedInputs& x,
                            const uint8_t* codes, int32_t* sums) {
  constexpr int kDepth = kKind.inputs_per_part(), kGroupCodes = kDepth * kPanelRows;
  const int8_t* from = x.codes + batch.row * x.stride + batch.k + batch.step * kStepInputs;
  Multiply0(from, x.stride, codes, sums);
  if (batch.groups > 1) {
    Multiply1(from + kDepth, x.stride, codes + kGroupCodes, sums + kSumsOfGroup);
  }
  if (batch.groups > 2) {
    Multiply2(from + 2 * kDepth, x.stride, codes + 2 * kGroupCodes, sums + 2 * kSumsOfGroup);
  }
  if (batch.groups > 3) {
    Multiply3(from + 3 * kDepth, x.stride, codes + 3 * kGroupCodes, sums + 3 * kSumsOfGroup);
  }
}

// totals[r] += the scaled sums of kGroups groups of a batch, from step `step` of its chunk on.
template <BlockKind kKind, int kGroups>
KVASIR_INLINE void AddGroups(const Batch<kKind>& batch, int step, const int32_t* sums,
                             const QuantizedInputs& x, float* totals) {
  constexpr int kParts = kKind.parts_per_step();
  F scales[kGroups], mins[kGroups];
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g) {
    const int group = kKind.group_of(step + g / kParts, g % kParts);
    scales[g] = batch.chunk.Scale(group, 0);
    if constexpr (kKind.mins) mins[g] = batch.chunk.Min(group, 0);
  }
  const int64_t x_groups = x.inputs / kStepInputs, first = batch.k / kStepInputs + step;
  for (int r = 0; r < batch.rows; ++r) {
    const int64_t row = batch.row + r;
    const float* const x_scales = x.scales + row * x_groups + first;
    [[maybe_unused]] float factors[kGroups];
    if constexpr (kKind.mins) {
      MinFactors<kKind, kGroups>(x_scales, x.sums + 2 * (row * x_groups + first), factors);
    }
    float* const to = totals + row * kPanelRows;
    F total = _mm512_loadu_ps(to);
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
      const I sum = _mm512_load_si512(sums + g * kSumsOfGroup + r * kPanelRows);
      total = Simd::MulAdd(Simd::ToFloat(sum),
                           Simd::Mul(scales[g], Simd::SetFloats(x_scales[g / kParts])), total);
      if constexpr (kKind.mins) {
        total = Simd::NegMulAdd(mins[g], Simd::SetFloats(factors[g]), total);
      }
    }
    Simd::Store(total, to);
  }
}

template <BlockKind kKind>
KVASIR_INLINE void AddBatch(const Batch<kKind>& batch, const int32_t* sums,
                            const QuantizedInputs& x, float* totals) {
  constexpr int kParts = kKind.parts_per_step();
  if (batch.groups == kGroupsTogether) {
    return AddGroups<kKind, kGroupsTogether>(batch, batch.step, sums, x, totals);
  }
  for (int g = 0; g < batch.groups; g += kParts) {
    AddGroups<kKind, kParts>(batch, batch.step + g / kParts, sums + g * kSumsOfGroup, x, totals);
  }
}

template <BlockKind kKind>
KVASIR_NOINLINE void ProductPanel(const BlockPanel& panel, const QuantizedInputs& x, int rows,
                                  float* out) {
  constexpr int kParts = kKind.parts_per_step(), kStepsTogether = kGroupsTogether / kParts;
  const AmxTileConfig config = Tiles(std::min(rows, kTileRows), kKind.inputs_per_part());
  _tile_loadconfig(&config);
  std::fill_n(out, rows * kPanelRows, 0.0f);
  Scratch scratch;
  I table{};
  if constexpr (kKind.table) table = Simd::LoadSignedTable(panel.table);
  const I fixed_zero = Simd::SetBytes(kKind.signed_codes() ? 128 : panel.zero);
  const auto num_steps = [&x](int64_t k) {
    return static_cast<int>(std::min<int64_t>(kChunkSteps, (x.inputs - k) / kStepInputs));
  };
  const auto expand = [&](const Chunk<kKind>& chunk, uint8_t* codes) {
    AskAhead(chunk.header, kKind.header_bytes(kChunkSteps));
    for (int step = 0; step < chunk.steps; ++step) {
      AskAhead(chunk.codes + step * kKind.step_bytes(), kKind.step_bytes());
      ExpandQuads<kKind, 0>(chunk, step, table, fixed_zero, codes + step * kStepCodes);
    }
  };

  Chunk<kKind> next;
  next.Enter(panel.data, num_steps(0), 0);
  expand(next, scratch.codes[0]);
  Batch<kKind> batch, under_way[2];
  int slot = 0;
  for (int64_t k = 0; k < x.inputs; k += kChunkSteps * kStepInputs) {
    const int turn = static_cast<int>(k / (kChunkSteps * kStepInputs) % 2);
    batch.k = k;
    batch.chunk = next;
    if (const int steps = num_steps(k + kChunkSteps * kStepInputs); steps > 0) {
      next.Enter(next.header + kKind.chunk_bytes(kChunkSteps), steps, 0);
      expand(next, scratch.codes[1 - turn]);
    }
    for (batch.row = 0; batch.row < rows; batch.row += kTileRows) {
      batch.rows = std::min(kTileRows, rows - batch.row);
      for (batch.step = 0; batch.step < batch.chunk.steps; batch.step += kStepsTogether) {
        batch.groups = std::min(kStepsTogether, batch.chunk.steps - batch.step) * kParts;
        AddBatch(under_way[slot], scratch.sums[slot], x, out);
        Multiply(batch, x, scratch.codes[turn] + batch.step * kStepCodes, scratch.sums[slot]);
        under_way[slot] = batch;
        slot = 1 - slot;
      }
    }
  }
  AddBatch(under_way[slot], scratch.sums[slot], x, out);
  AddBatch(under_way[1 - slot], scratch.sums[1 - slot], x, out);
  _tile_release();
}

template <size_t kIndex>
constexpr BlockProduct ProductOf() {
  if constexpr (kBlockKinds[kIndex].e4m3) {
    return nullptr;
  } else {
    return ProductPanel<kBlockKinds[kIndex]>;
  }
}

template <size_t... kKinds>
constexpr BlockProducts MakeProducts(std::index_sequence<kKinds...>) {
  return {{ProductOf<kKinds>()...}, {UnpackPanel<kBlockKinds[kKinds], bf16>...}};
}

const BlockProducts& Products() {
  static constexpr BlockProducts products =
      MakeProducts(std::make_index_sequence<kNumBlockKinds>());
  return products;
}

}  // namespace kvasir::block_amx

KVASIR_AMX_END

#endif  // __x86_64__ && __linux__
