// Products of many rows with weights of four and five bits on AMX: a panel's weights become tiles
// of bf16 in the first cache level, a chunk at a time, while the chunk before is multiplied. The
// weights are the A operand, one row of a tile for each output, so that a row's codes are looked up
// in a table of the 16 or 32 numbers that its group can hold (VPERMW, 32 at a time): scaling and
// rounding are paid for the table alone. (Kinds of other bits, widened and scaled one by one into
// the same tiles, were no faster than tiles of 64 outputs, runtime/ops/quantized.)
//
// Each weight is the number that BlockUnpack gives, in bf16. Sums take the steps of the depth in
// ascending order: a row's result depends neither on the other rows nor on how many they are.
//
// Only callable when HasBlockTiles(kind), products between ConfigureAmxTiles and ReleaseAmxTiles
// (amx_attention_kernels.h). Pure functions, thread safe, no allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "runtime/kernels/blocks/block_kernels.h"

namespace kvasir {

// AMX is there, and the kind's codes have four or five bits.
bool HasBlockTiles(size_t kind);

inline constexpr int kBlockTileRows = 16;      // of inputs, in one tile
inline constexpr int kMaxBlockTilePanels = 8;  // of one call
inline constexpr int64_t kBlockTileValues = int64_t{kPanelRows} * kStepInputs;

// Tiles of rows [rows] of inputs, rounded up.
inline int64_t NumRowBlocks(int64_t rows) { return (rows + kBlockTileRows - 1) / kBlockTileRows; }
// Values of all tiles of inputs.
inline int64_t PackedInputValues(int64_t rows, int64_t inputs) {
  return NumRowBlocks(rows) * kBlockTileRows * inputs;
}

// Inputs of chunk `chunk` of all rows into their place among the tiles, PackedInputValues. x:
// [rows][inputs]; inputs a multiple of a step.
void PackTileInputs(const bf16* x, int64_t rows, int64_t inputs, int64_t chunk, bf16* tiles);

// Memory for BlockTileProduct: `weights` for bf16 values, `sums` for floats, both aligned to 64.
inline int64_t TileWeightValues(int panels) { return 2 * panels * kChunkSteps * kBlockTileValues; }
inline int64_t TileSums(int panels, int64_t rows) {
  return NumRowBlocks(rows) * panels * kBlockTileRows * kPanelRows;
}

// sums[row / 16][panel][row % 16][output] = sum over k of x[row][k] * w[panel][output][k], for
// `num_panels` <= kMaxBlockTilePanels panels of one kind. `tiles`: PackTileInputs of every chunk.
void BlockTileProduct(const BlockPanel* panels, int num_panels, const bf16* tiles, int64_t rows,
                      int64_t inputs, bf16* weights, float* sums);

}  // namespace kvasir
