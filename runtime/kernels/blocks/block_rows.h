// Products of many rows with block-quantised weights on AVX-512 VNNI: the codes of two panels
// become bytes in a core's first cache level, a chunk of inputs at a time, and all rows are
// multiplied with them. What BlockDot (block_kernels.h) does for a few rows, equal to the bit: the
// sums of each group are scaled in the same order with the same roundings. So a row's result
// depends neither on the other rows nor on how many they are.
//
// No alignment needed; no allocation. Pure functions, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/kernels/blocks/block_kernels.h"

namespace kvasir {

inline constexpr int kMaxRowPanels = 8;  // of one call

// Bytes of scratch for a call with so many rows: a chunk of two panels, and factors of the rows.
inline constexpr size_t kBlockRecordsBytes =
    size_t{kChunkSteps} * (kPanelRows * kStepInputs + size_t{2} * 2 * kPanelRows * sizeof(float));
inline constexpr size_t kRowFactorsBytes = size_t{3} * 2 * kChunkSteps * sizeof(float);
constexpr size_t BlockRowsScratch(int64_t rows) {
  return 2 * kBlockRecordsBytes + RoundUpBlockRows(rows) * kRowFactorsBytes;
}

// Whether there are such products with panels of this kind, on this CPU and as cpu_target has it.
bool HasBlockRows(size_t kind);

// sums[r][16 * p + row] = sum over k of x[r][k] * w[p][row][k], r < rows, p < count <=
// kMaxRowPanels, row < 16; panels of one kind. Reads codes of RoundUpBlockRows(rows) rows, and
// writes sums of as many: of the further ones, both may hold anything. Only where HasBlockRows.
void BlockRowsProduct(const BlockPanel* panels, int count, const QuantizedInputs& x, int64_t rows,
                      uint8_t* scratch, float* sums);

}  // namespace kvasir
