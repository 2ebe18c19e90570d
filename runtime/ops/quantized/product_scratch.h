// Memory that products with quantised weights work in, of each thread. For quantized_matmul.cc.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "base/bf16.h"
#include "runtime/ops/quantized/float_tiles.h"
#include "runtime/ops/quantized/quantized_rows.h"

namespace kvasir {

// Of the calling thread, shared by all its products.
struct InputScratch {
  AlignedBuffer<float> row;       // [threads][2][in]
  AlignedBuffer<uint8_t> values;  // [rows][in] of the tiles' type
  AlignedBuffer<bf16> tiles;      // PackedInputValues
  QuantizedRows codes;
};

inline InputScratch& Inputs() {
  thread_local InputScratch scratch;
  return scratch;
}

// Of each compute thread.
struct TileScratch {
  AlignedBuffer<uint8_t> tile;  // [in / 2][64][2] bf16
  FloatTileScratch floats;
  AlignedBuffer<float> products;   // [rows][64]
  AlignedBuffer<bf16> weights;     // TileWeightValues
  AlignedBuffer<uint8_t> records;  // BlockRowsScratch
};

inline TileScratch& Tiles() {
  thread_local TileScratch scratch;
  return scratch;
}

}  // namespace kvasir
