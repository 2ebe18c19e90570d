#include "base/check.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/blocks/block_kernel_table.h"
#include "runtime/kernels/blocks/block_tiles.h"

#if defined(__x86_64__) && defined(__linux__)

#include <immintrin.h>

#include <algorithm>

#include "runtime/kernels/amx_target-inl.h"
#include "runtime/kernels/avx512_bf16-inl.h"

#define KVASIR_BLOCK_NAMESPACE block_tiles
#define KVASIR_BLOCK_NATIVE_BF16

KVASIR_AMX_BEGIN

#include "runtime/kernels/blocks/block_simd_avx512-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_walk-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_tile_unpack-inl.h"

namespace kvasir::block_tiles {

using Unpack = void (*)(const BlockPanel&, const uint8_t* chunk, int steps, int step, int64_t ahead,
                        bf16* tile);

template <size_t kIndex>
constexpr Unpack UnpackOf() {
  if constexpr (kBlockKinds[kIndex].bits == 4 || kBlockKinds[kIndex].bits == 5) {
    return UnpackTile<kBlockKinds[kIndex]>;
  } else {
    return nullptr;
  }
}
struct Unpacks {
  Unpack of[kNumBlockKinds];
};
template <size_t... kKinds>
constexpr Unpacks MakeUnpacks(std::index_sequence<kKinds...>) {
  return {{UnpackOf<kKinds>()...}};
}
constexpr Unpacks kUnpacks = MakeUnpacks(std::make_index_sequence<kNumBlockKinds>());

constexpr int kTileStride = 64;  // bytes of a tile's row
constexpr int64_t kTileSums = int64_t{kBlockTileRows} * kPanelRows;

// Two panels (or one) times two blocks of rows (or one) over one chunk.
struct Piece {
  int steps = 0;
  const bf16* weights[2];  // [steps] tiles of each panel
  const bf16* inputs[2];   // [steps] tiles of each block of rows
  float* sums[2][2];       // [panel][block]
  bool first = false;      // sums begin here
  // The panels' next chunk, unpacked meanwhile; none: 0 steps.
  const BlockPanel* panels = nullptr;
  const uint8_t* next[2];
  int next_steps = 0;
  bf16* next_weights[2];
  int64_t ahead = 0;  // to the bytes that are asked for
  Unpack unpack = nullptr;
};

// Sums: tiles 0 to 3, [panel][block]; weights: 4 and 5; inputs: 6 and 7.
template <int kPanels, int kBlocks>
void Multiply(const Piece& piece) {
  if (piece.first) {
    _tile_zero(0);
    if constexpr (kBlocks > 1) _tile_zero(1);
    if constexpr (kPanels > 1) _tile_zero(2);
    if constexpr (kPanels > 1 && kBlocks > 1) _tile_zero(3);
  } else {
    _tile_loadd(0, piece.sums[0][0], kTileStride);
    if constexpr (kBlocks > 1) _tile_loadd(1, piece.sums[0][1], kTileStride);
    if constexpr (kPanels > 1) _tile_loadd(2, piece.sums[1][0], kTileStride);
    if constexpr (kPanels > 1 && kBlocks > 1) _tile_loadd(3, piece.sums[1][1], kTileStride);
  }
  for (int step = 0; step < piece.steps; ++step) {
    const int64_t at = step * kBlockTileValues;
    _tile_loadd(4, piece.weights[0] + at, kTileStride);
    _tile_loadd(6, piece.inputs[0] + at, kTileStride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kPanels > 1) {
      _tile_loadd(5, piece.weights[1] + at, kTileStride);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kBlocks > 1) {
      _tile_loadd(7, piece.inputs[1] + at, kTileStride);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kPanels > 1) _tile_dpbf16ps(3, 5, 7);
    }
    if (step < piece.next_steps) {
      for (int p = 0; p < kPanels; ++p) {
        piece.unpack(piece.panels[p], piece.next[p], piece.next_steps, step, piece.ahead,
                     piece.next_weights[p] + at);
      }
    }
  }
  _tile_stored(0, piece.sums[0][0], kTileStride);
  if constexpr (kBlocks > 1) _tile_stored(1, piece.sums[0][1], kTileStride);
  if constexpr (kPanels > 1) _tile_stored(2, piece.sums[1][0], kTileStride);
  if constexpr (kPanels > 1 && kBlocks > 1) _tile_stored(3, piece.sums[1][1], kTileStride);
}

void Multiply(int panels, int blocks, const Piece& piece) {
  if (panels == 2) return blocks == 2 ? Multiply<2, 2>(piece) : Multiply<2, 1>(piece);
  blocks == 2 ? Multiply<1, 2>(piece) : Multiply<1, 1>(piece);
}

void TransposeTile(float* tile) {
  __m512i rows[16], columns[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(tile + 16 * i);
  avx512::Transpose(rows, columns);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_si512(tile + 16 * i, columns[i]);
}

constexpr Words kTileOrder = MakeWords([](int p) { return TileInput(p); });

}  // namespace kvasir::block_tiles

namespace kvasir {

using block_tiles::Piece;

bool HasBlockTiles(size_t kind) {
  return block_tiles::kUnpacks.of[kind] != nullptr && HasAmxProducts();
}

void PackTileInputs(const bf16* x, int64_t rows, int64_t inputs, int64_t chunk, bf16* tiles) {
  const int64_t first = chunk * kChunkSteps, blocks = NumRowBlocks(rows);
  const int64_t steps = std::min<int64_t>(kChunkSteps, inputs / kStepInputs - first);
  const __m512i order = block_tiles::Load(block_tiles::kTileOrder);
  bf16* to = tiles + first * blocks * kBlockTileValues;
  for (int64_t row = 0; row < rows; row += kBlockTileRows) {
    for (int64_t step = first; step < first + steps; ++step, to += kBlockTileValues) {
      const bf16* from = x + row * inputs + step * kStepInputs;
      __m512i words[16], columns[16];
#pragma GCC unroll 16
      for (int64_t r = 0; r < 16; ++r) {
        words[r] = row + r < rows
                       ? _mm512_permutexvar_epi16(order, _mm512_loadu_si512(from + r * inputs))
                       : _mm512_setzero_si512();
      }
      avx512::Transpose(words, columns);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(to + 32 * i, columns[i]);
    }
  }
}

void BlockTileProduct(const BlockPanel* panels, int num_panels, const bf16* tiles, int64_t rows,
                      int64_t inputs, bf16* weights, float* sums) {
  const BlockKind& kind = kBlockKinds[panels[0].kind];
  const int64_t steps = inputs / kStepInputs, blocks = NumRowBlocks(rows);
  const int64_t panel_bytes = kind.panel_bytes(inputs);
  const auto steps_from = [steps](int64_t begin) {
    return static_cast<int>(std::clamp<int64_t>(steps - begin, 0, kChunkSteps));
  };
  // Tiles of a panel, in one of two turns.
  const auto weights_of = [&](int turn, int panel) {
    return weights + (turn * num_panels + panel) * kChunkSteps * kBlockTileValues;
  };
  const auto sums_of = [&](int panel, int64_t block) {
    return sums + (block * num_panels + panel) * block_tiles::kTileSums;
  };
  Piece piece;
  piece.unpack = block_tiles::kUnpacks.of[panels[0].kind];
  for (int p = 0; p < num_panels; ++p) {
    for (int step = 0; step < steps_from(0); ++step) {
      piece.unpack(panels[p], panels[p].data, steps_from(0), step, block_tiles::kAheadBytes,
                   weights_of(0, p) + step * kBlockTileValues);
    }
  }
  for (int64_t begin = 0; begin < steps; begin += kChunkSteps) {
    const int turn = static_cast<int>(begin / kChunkSteps % 2);
    piece.steps = steps_from(begin);
    piece.first = begin == 0;
    const bf16* const inputs_at = tiles + begin * blocks * kBlockTileValues;
    const int64_t next_at = (begin / kChunkSteps + 1) * kind.chunk_bytes(kChunkSteps);
    // A panel is followed by the one that stands behind all of these.
    piece.ahead = block_tiles::kAheadBytes;
    if (next_at + piece.ahead >= panel_bytes) piece.ahead += (num_panels - 1) * panel_bytes;
    for (int64_t block = 0; block < blocks; block += 2) {
      const int together = static_cast<int>(std::min<int64_t>(2, blocks - block));
      piece.next_steps = block == 0 ? steps_from(begin + kChunkSteps) : 0;
      for (int panel = 0; panel < num_panels; panel += 2) {
        const int pair = std::min(2, num_panels - panel);
        piece.panels = panels + panel;
        for (int p = 0; p < pair; ++p) {
          piece.weights[p] = weights_of(turn, panel + p);
          piece.next[p] = panels[panel + p].data + next_at;
          piece.next_weights[p] = weights_of(1 - turn, panel + p);
          for (int b = 0; b < together; ++b) piece.sums[p][b] = sums_of(panel + p, block + b);
        }
        for (int b = 0; b < together; ++b) {
          piece.inputs[b] = inputs_at + (block + b) * piece.steps * kBlockTileValues;
        }
        block_tiles::Multiply(pair, together, piece);
      }
    }
  }
  for (int64_t tile = 0; tile < blocks * num_panels; ++tile) {
    block_tiles::TransposeTile(sums + tile * block_tiles::kTileSums);
  }
}

}  // namespace kvasir

KVASIR_AMX_END

#else  // no such instructions: HasBlockTiles() says so, and nobody calls these

namespace kvasir {

bool HasBlockTiles(size_t) { return false; }
void PackTileInputs(const bf16*, int64_t, int64_t, int64_t, bf16*) { KVASIR_CHECK(false); }
void BlockTileProduct(const BlockPanel*, int, const bf16*, int64_t, int64_t, bf16*, float*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir

#endif
