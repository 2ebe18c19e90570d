#include "runtime/formats/block_writer.h"

#include <cstring>

#include "base/bf16.h"
#include "base/check.h"

namespace kvasir {

void PackNibbles(const uint8_t* codes, int count, uint8_t* bytes) {
  for (int j = 0; j < count; ++j) {
    bytes[j] = static_cast<uint8_t>((codes[j] & 15) | codes[j + count] << 4);
  }
}

void WriteGroup(const WeightFormatInfo& info, float scale, uint8_t zero, const uint8_t* codes,
                uint8_t* block) {
  KVASIR_CHECK(info.is_plain_group());
  if (info.wide_scales) {
    std::memcpy(block, &scale, sizeof(scale));
  } else {
    const f16 half = ToF16(scale);
    std::memcpy(block, &half, sizeof(half));
  }
  block += info.scale_bytes();
  if (info.has_zero_points) *block++ = zero;
  if (info.code_bits == 4) {
    PackNibbles(codes, info.group_elements / 2, block);
  } else {
    std::memcpy(block, codes, info.group_elements);
  }
}

void WriteQ8_0(float scale, const uint8_t* codes, uint8_t* block) {
  const f16 half = ToF16(scale);
  std::memcpy(block, &half, sizeof(half));
  std::memcpy(block + sizeof(half), codes, 32);
}

void WriteMxfp4(uint8_t exponent, const uint8_t* codes, uint8_t* block) {
  block[0] = exponent;
  PackNibbles(codes, 16, block + 1);
}

void WriteNvfp4(const uint8_t* scales, const uint8_t* codes, uint8_t* block) {
  for (int g = 0; g < 4; ++g) {
    block[g] = scales[g];
    PackNibbles(codes + 16 * g, 8, block + 4 + 8 * g);
  }
}

}  // namespace kvasir
