#include "runtime/formats/block_codes.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"

namespace kvasir {
namespace {

float LoadF16(const uint8_t* bytes) {
  f16 value;
  std::memcpy(&value, bytes, sizeof(value));
  return ToFloat(value);
}

// Byte j holds element j in its low and element j + count in its high half.
void UnpackNibbles(const uint8_t* bytes, int count, uint8_t* codes) {
  for (int j = 0; j < count; ++j) {
    codes[j] = bytes[j] & 15;
    codes[j + count] = bytes[j] >> 4;
  }
}

// 32 fifth bits, element i in bit i.
void AddFifthBits(const uint8_t* bytes, uint8_t* codes) {
  for (int i = 0; i < 32; ++i) {
    codes[i] = static_cast<uint8_t>(codes[i] | ((bytes[i / 8] >> (i % 8)) & 1) << 4);
  }
}

// Two bits per element: in each half of 128, byte l holds elements l, l + 32, l + 64, l + 96.
void UnpackPairs(const uint8_t* bytes, uint8_t* codes) {
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, shift = i % 128 / 32, l = i % 32;
    codes[i] = (bytes[32 * half + l] >> (2 * shift)) & 3;
  }
}

// Scale and min of Q4_K and Q5_K, six bits each, sub-block j of 8, from 12 bytes.
void UnpackSixBitPairs(const uint8_t* b, BlockCodes* out) {
  for (int j = 0; j < 4; ++j) {
    out->scales[j] = static_cast<int8_t>(b[j] & 63);
    out->mins[j] = b[j + 4] & 63;
    out->scales[j + 4] = static_cast<int8_t>((b[j + 8] & 15) | (b[j] >> 6) << 4);
    out->mins[j + 4] = static_cast<uint8_t>((b[j + 8] >> 4) | (b[j + 4] >> 6) << 4);
  }
}

// 2^(e - 128): the exponent of MXFP4, half of what E8M0 says because its levels are doubled.
float HalfE8m0(uint8_t e) {
  const uint32_t bits = e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23;
  return std::bit_cast<float>(bits);
}

// Half of the unsigned E4M3 number of these bits; NaN's bits count as 0, as in llama.cpp.
float HalfUe4m3(uint8_t bits) {
  if (bits == 0 || bits == 0x7f) return 0.0f;
  const int exponent = bits >> 3 & 15;
  const float mantissa = static_cast<float>(bits & 7);
  if (exponent == 0) return mantissa * 0x1p-10f;
  return std::bit_cast<float>(static_cast<uint32_t>(exponent - 8 + 127) << 23) *
         (1.0f + mantissa / 8.0f);
}

void UnpackQ3K(const uint8_t* block, BlockCodes* out) {
  const uint8_t *high = block, *low = block + 32, *b = block + 96;
  UnpackPairs(low, out->codes);
  for (int i = 0; i < 256; ++i) {
    out->codes[i] = static_cast<uint8_t>(out->codes[i] | ((high[i % 32] >> (i / 32)) & 1) << 2);
  }
  for (int k = 0; k < 16; ++k) {
    const int low_bits = k < 8 ? b[k] & 15 : b[k - 8] >> 4;
    const int high_bits = (b[8 + k % 4] >> (2 * (k / 4))) & 3;
    out->scales[k] = static_cast<int8_t>((low_bits | high_bits << 4) - 32);
  }
  out->d[0] = LoadF16(block + 108);
}

void UnpackQ4K(const uint8_t* block, const uint8_t* quants, BlockCodes* out) {
  out->d[0] = LoadF16(block);
  out->dmin[0] = LoadF16(block + 2);
  UnpackSixBitPairs(block + 4, out);
  for (int g = 0; g < 4; ++g) UnpackNibbles(quants + 32 * g, 32, out->codes + 64 * g);
}

void UnpackQ5K(const uint8_t* block, BlockCodes* out) {
  UnpackQ4K(block, block + 48, out);
  const uint8_t* high = block + 16;
  for (int i = 0; i < 256; ++i) {
    out->codes[i] = static_cast<uint8_t>(out->codes[i] | ((high[i % 32] >> (i / 32)) & 1) << 4);
  }
}

void UnpackQ6K(const uint8_t* block, BlockCodes* out) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
    uint8_t* codes = out->codes + 128 * half;
    for (int l = 0; l < 32; ++l) {
      codes[l] = static_cast<uint8_t>((low[l] & 15) | (high[l] & 3) << 4);
      codes[l + 32] = static_cast<uint8_t>((low[l + 32] & 15) | (high[l] >> 2 & 3) << 4);
      codes[l + 64] = static_cast<uint8_t>((low[l] >> 4) | (high[l] >> 4 & 3) << 4);
      codes[l + 96] = static_cast<uint8_t>((low[l + 32] >> 4) | (high[l] >> 6 & 3) << 4);
    }
  }
  std::memcpy(out->scales, block + 192, 16);
  out->d[0] = LoadF16(block + 208);
}

void UnpackIq4Xs(const uint8_t* block, BlockCodes* out) {
  out->d[0] = LoadF16(block);
  const int high = block[2] | block[3] << 8;
  for (int b = 0; b < 8; ++b) {
    const int low = block[4 + b / 2] >> (4 * (b % 2)) & 15;
    out->scales[b] = static_cast<int8_t>((low | ((high >> (2 * b)) & 3) << 4) - 32);
    UnpackNibbles(block + 8 + 16 * b, 16, out->codes + 32 * b);
  }
}

void UnpackGroup(const WeightFormatInfo& info, const uint8_t* block, BlockCodes* out) {
  if (info.wide_scales) {
    std::memcpy(out->d, block, sizeof(float));
  } else {
    out->d[0] = LoadF16(block);
  }
  block += info.scale_bytes();
  if (info.has_zero_points) out->zeros[0] = *block++;
  if (info.code_bits == 4) return UnpackNibbles(block, info.group_elements / 2, out->codes);
  const uint8_t flip = info.e4m3 ? 0 : 0x80;
  for (int i = 0; i < info.group_elements; ++i) out->codes[i] = block[i] ^ flip;
}

}  // namespace

void UnpackBlock(WeightFormat format, const uint8_t* block, BlockCodes* out) {
  std::fill_n(out->scales, kMaxBlockGroups, int8_t{1});
  std::fill_n(out->mins, kMaxBlockGroups, uint8_t{1});
  std::fill_n(out->zeros, kMaxBlockGroups, static_cast<uint8_t>(Info(format).zero));
  out->dmin[0] = 0.0f;
  switch (format) {
    case WeightFormat::kQ8_0:
      out->d[0] = LoadF16(block);
      for (int i = 0; i < 32; ++i) out->codes[i] = block[2 + i] ^ 0x80;
      return;
    case WeightFormat::kQ4_0:
    case WeightFormat::kIQ4_NL:
      out->d[0] = LoadF16(block);
      UnpackNibbles(block + 2, 16, out->codes);
      return;
    case WeightFormat::kQ4_1:
      out->d[0] = LoadF16(block);
      out->dmin[0] = -LoadF16(block + 2);
      UnpackNibbles(block + 4, 16, out->codes);
      return;
    case WeightFormat::kQ5_0:
      out->d[0] = LoadF16(block);
      UnpackNibbles(block + 6, 16, out->codes);
      AddFifthBits(block + 2, out->codes);
      return;
    case WeightFormat::kQ5_1:
      out->d[0] = LoadF16(block);
      out->dmin[0] = -LoadF16(block + 2);
      UnpackNibbles(block + 8, 16, out->codes);
      AddFifthBits(block + 4, out->codes);
      return;
    case WeightFormat::kMXFP4:
      out->d[0] = HalfE8m0(block[0]);
      UnpackNibbles(block + 1, 16, out->codes);
      return;
    case WeightFormat::kNVFP4:
      for (int g = 0; g < 4; ++g) {
        out->d[g] = HalfUe4m3(block[g]);
        UnpackNibbles(block + 4 + 8 * g, 8, out->codes + 16 * g);
      }
      return;
    case WeightFormat::kQ2_K:
      for (int g = 0; g < 16; ++g) {
        out->scales[g] = static_cast<int8_t>(block[g] & 15);
        out->mins[g] = block[g] >> 4;
      }
      UnpackPairs(block + 16, out->codes);
      out->d[0] = LoadF16(block + 80);
      out->dmin[0] = LoadF16(block + 82);
      return;
    case WeightFormat::kQ3_K:
      return UnpackQ3K(block, out);
    case WeightFormat::kQ4_K:
      return UnpackQ4K(block, block + 16, out);
    case WeightFormat::kQ5_K:
      return UnpackQ5K(block, out);
    case WeightFormat::kQ6_K:
      return UnpackQ6K(block, out);
    case WeightFormat::kIQ4_XS:
      return UnpackIq4Xs(block, out);
    case WeightFormat::kInt4Group32:
    case WeightFormat::kInt4Group64:
    case WeightFormat::kInt4Group128:
    case WeightFormat::kInt4Zero32:
    case WeightFormat::kInt4Zero64:
    case WeightFormat::kInt4Zero128:
    case WeightFormat::kInt4Wide32:
    case WeightFormat::kInt4Wide64:
    case WeightFormat::kInt4Wide128:
    case WeightFormat::kInt8Group128:
    case WeightFormat::kE4m3Group128:
      return UnpackGroup(Info(format), block, out);
    case WeightFormat::kF32:
    case WeightFormat::kBf16:
    case WeightFormat::kF16:
      break;
  }
  KVASIR_CHECK(false);
}

}  // namespace kvasir
