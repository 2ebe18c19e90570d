// One block of a quantised row, taken apart: the codes in the order of the elements, and the
// numbers that all, or a group, share. What dequantising and repacking both begin with.
//
// Blocks may be unaligned. Pure functions, thread safe.
#pragma once

#include <cstdint>

#include "runtime/formats/weight_format.h"

namespace kvasir {

struct BlockCodes {
  uint8_t codes[kMaxBlockElements];  // [block_elements], each below 2^code_bits
  // Two-level formats: d, dmin of the block in [0]; others: of each group.
  float d[kMaxBlockGroups];
  float dmin[kMaxBlockGroups];
  // [groups]. Formats of one level: scales 1, mins 1.
  int8_t scales[kMaxBlockGroups];
  uint8_t mins[kMaxBlockGroups];
  uint8_t zeros[kMaxBlockGroups];  // [groups]: what is subtracted from the codes
};

// `block`: Info(format).block_bytes bytes; format.is_block().
void UnpackBlock(WeightFormat format, const uint8_t* block, BlockCodes* out);

}  // namespace kvasir
