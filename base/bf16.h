// bfloat16 and IEEE half precision as plain 16-bit storage types with conversions to and from
// float. Rounding is to nearest, ties to even; NaN stays NaN. Storage only: arithmetic happens in
// float.
#pragma once

#include <bit>
#include <cstdint>

namespace kvasir {

struct bf16 {
  uint16_t bits = 0;
};

inline float ToFloat(bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

inline bf16 ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {  // NaN: keep it quiet, do not round it to infinity
    return bf16{static_cast<uint16_t>((bits >> 16) | 0x0040u)};
  }
  return bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

struct f16 {
  uint16_t bits = 0;
};

inline float ToFloat(f16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity and NaN
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  }
  if (magnitude < 0x0400u) {  // zero and subnormals: magnitude * 2^-24, exact in float
    const float result = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(result));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
}

// For code that is written once for all element types.
inline float ToFloat(float value) { return value; }
inline float ToFloat(int8_t value) { return static_cast<float>(value); }

inline f16 ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return f16{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return f16{static_cast<uint16_t>(sign | 0x7c00u)};  // >= 65520
  if (magnitude <
      0x38800000u) {  // below 2^-14: adding 0.5 makes the FPU round to a multiple of 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return f16{static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u);
  return f16{static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

}  // namespace kvasir
