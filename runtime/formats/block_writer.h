// Writes single blocks: the other direction of block_codes.h, for codes and scales that are known.
// Pure functions, thread safe.
#pragma once

#include <cstdint>

#include "runtime/formats/weight_format.h"

namespace kvasir {

// A block of one of Kvasir's own formats (WeightFormatInfo::is_plain_group()). `codes`: one per
// element, of four bits, or the bytes of int8 and E4M3 as they are. `zero` counts where the format
// has zero points. Formats with f16 scales: `scale` must be one.
void WriteGroup(const WeightFormatInfo& info, float scale, uint8_t zero, const uint8_t* codes,
                uint8_t* block);

// A block of Q8_0: `scale` is one of f16, `codes` 32 signed bytes.
void WriteQ8_0(float scale, const uint8_t* codes, uint8_t* block);

// A block of MXFP4: `exponent` as E8M0 has it, 32 codes of type E2M1.
void WriteMxfp4(uint8_t exponent, const uint8_t* codes, uint8_t* block);

// A block of NVFP4: 4 scales as E4M3 has them, none negative, 64 codes of type E2M1.
void WriteNvfp4(const uint8_t* scales, const uint8_t* codes, uint8_t* block);

// [count] codes in the low, [count] in the high halves of `count` bytes.
void PackNibbles(const uint8_t* codes, int count, uint8_t* bytes);

}  // namespace kvasir
