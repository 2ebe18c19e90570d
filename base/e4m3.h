// The eight-bit floating-point numbers that checkpoints call F8_E4M3 (FN): one bit of sign, four of
// exponent with bias 7, three of mantissa; no infinities. Storage only: arithmetic happens in
// float.
#pragma once

#include <bit>
#include <cstdint>

namespace kvasir {

// The one magnitude that is NaN.
inline bool IsE4m3Nan(uint8_t bits) { return (bits & 0x7f) == 0x7f; }

// Exact. NaN's bits read as the number that they would be, 480: whoever takes bytes from a file
// refuses them.
inline float E4m3ToFloat(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80) << 24;
  const uint32_t magnitude = bits & 0x7f;
  const float value = magnitude < 8
                          ? static_cast<float>(magnitude) * 0x1p-9f
                          : std::bit_cast<float>((magnitude << 20) + (uint32_t{120} << 23));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

}  // namespace kvasir
