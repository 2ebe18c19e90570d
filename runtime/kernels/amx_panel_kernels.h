// Products of many rows with packed weights on AMX, where computing is what takes time: each tile
// that is loaded is used twice, in blocks of 32 rows by 32 columns. Both operands are copied into
// whole tiles first, for rows as they stand are a power of two apart, and then all lines of a tile
// fall into one set of the first cache level.
//
// What the caller (runtime/ops/packed_products.h) keeps where: a panel, 32 columns by a few steps,
// in the first level, for all rows; the rows' tiles of these steps and the sums in the second. Sums
// are stored between the steps of one panel and the next: more steps in a panel mean fewer of these
// stores, and two threads of one core share the first level's 48 KiB.
//
// Weights and steps are those of amx_column_kernels.h, and so are the results, to the bit: sums
// take words in ascending order, one row by itself. Only callable when HasAmxProducts(), products
// between ConfigureAmxTiles and ReleaseAmxTiles. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "runtime/kernels/columns/amx_column_kernels.h"
#include "runtime/kernels/upcoming_lines.h"

namespace kvasir {

inline constexpr size_t kAmxTileBytes = 1024;  // 16 rows of 64 bytes
inline constexpr size_t kAmxPanelColumns = kAmxColumns / 2;
inline constexpr size_t kMaxAmxPanelSteps = 8;
inline constexpr size_t kAmxPanelBytes = kMaxAmxPanelSteps * 2 * kAmxTileBytes;

// tiles[s] = bytes [64 s, 64 s + 64) of 16 rows, s < row_bytes / 64; x: [16][row_bytes]. tiles is
// aligned to 64 bytes.
void PackAmxRowTiles(const void* x, size_t row_bytes, void* tiles);

// panel[s][t] = columns [32 half + 16 t, + 16) of step s, t < 2, s < steps <= kMaxAmxPanelSteps;
// half is 0 or 1. weights and panel are aligned to 64 bytes.
void PackAmxPanel(const void* weights, size_t half, size_t steps, void* panel);

// sums[r][j] = (first ? 0 : sums[r][j]) + the steps' products, r < 16 * row_tiles, j < 32. Row tile
// i's first step is at tiles + i * tile_stride bytes. sums: rows of kAmxColumns. Asks for
// `upcoming` on the way.
void AmxPanelProduct(const bf16* tiles, size_t row_tiles, size_t tile_stride, const void* panel,
                     size_t steps, bool first, UpcomingLines::Lines upcoming, float* sums);
// Unsigned rows with signed weights.
void AmxPanelProduct(const uint8_t* tiles, size_t row_tiles, size_t tile_stride, const void* panel,
                     size_t steps, bool first, UpcomingLines::Lines upcoming, int32_t* sums);

}  // namespace kvasir
