// Products of many rows with block-quantised weights where the CPU multiplies f32 only: a few
// panels become f32 in a core's cache, a chunk of inputs at a time, and all rows are multiplied
// with them. A row's result depends neither on the other rows nor on how many they are. For
// runtime/ops/quantized only. Thread safe.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "runtime/kernels/panels/panel_kernels.h"
#include "runtime/ops/quantized/block_packing.h"

namespace kvasir {

inline constexpr int64_t kFloatTilePanels = kMostPanels;  // of one call
inline constexpr int64_t kFloatTileColumns = kSumColumns;

// Rows that take one unpacking of the weights: their sums (128 KiB) stay in a core's cache.
inline constexpr int64_t kFloatTileRows = 512;

// Of each compute thread.
struct FloatTileScratch {
  AlignedBuffer<float> panels;
  AlignedBuffer<float> sums;  // [rows][kFloatTileColumns]
};

// scratch->sums = x [rows][in] times panels [begin, end) of the blocks; rows <= kFloatTileRows,
// `in` the blocks' inputs.
void FloatTileProduct(const PackedBlocks& blocks, int64_t begin, int64_t end, const float* x,
                      int64_t rows, int64_t in, FloatTileScratch* scratch);

}  // namespace kvasir
