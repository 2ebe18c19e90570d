// oneDNN's products of many rows with one tile of unpacked weights: 64 outputs, all inputs, small
// enough for a core's second cache level. Each runs on one thread, inside a ParallelFor. The cache
// of primitives belongs to the calling thread. For runtime/ops only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/ops/onednn_products.h"

namespace kvasir {

inline constexpr int64_t kTileOutputs = 64;

// y [rows, kTileOutputs] in f32 = x [rows, inputs] times the tile, both bf16. The tile is
// [inputs / 2][64][2], the order that the instructions want; inputs a multiple of 16. With operands
// for `threads` executions at a time. Valid as long as the calling thread. Throws dnnl::error where
// oneDNN refuses.
const Product& TileProduct(int64_t rows, int64_t inputs, size_t threads);

}  // namespace kvasir
