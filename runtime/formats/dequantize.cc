#include "runtime/formats/dequantize.h"

#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "runtime/formats/block_codes.h"

namespace kvasir {
namespace {

template <typename T>
void Widen(const uint8_t* stored, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, stored + i * sizeof(T), sizeof(T));
    out[i] = ToFloat(value);
  }
}

// This folder is compiled without contraction: a fused multiply-add would round once, not twice.
void DequantizeBlock(const WeightFormatInfo& info, const BlockCodes& block, float* out) {
  for (int begin = 0, g = 0; begin < info.block_elements; begin += info.group_elements, ++g) {
    const int level = info.two_level ? 0 : g;
    const float scale = block.d[level] * static_cast<float>(block.scales[g]);
    const float min = info.has_mins ? block.dmin[level] * static_cast<float>(block.mins[g]) : 0.0f;
    for (int i = begin; i < begin + info.group_elements; ++i) {
      const int code =
          info.table != nullptr ? info.table[block.codes[i]] : block.codes[i] - block.zeros[g];
      const float product = scale * static_cast<float>(code);
      out[i] = info.has_mins ? product - min : product;
    }
  }
}

}  // namespace

void Dequantize(WeightFormat format, const void* stored, int64_t count, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(stored);
  switch (format) {
    case WeightFormat::kF32:
      std::memcpy(out, bytes, count * sizeof(float));
      return;
    case WeightFormat::kBf16:
      return Widen<bf16>(bytes, count, out);
    case WeightFormat::kF16:
      return Widen<f16>(bytes, count, out);
    default:
      break;
  }
  const WeightFormatInfo& info = Info(format);
  KVASIR_CHECK(count % info.block_elements == 0);
  BlockCodes block;
  for (int64_t i = 0; i < count; i += info.block_elements) {
    UnpackBlock(format, bytes, &block);
    DequantizeBlock(info, block, out + i);
    bytes += info.block_bytes;
  }
}

}  // namespace kvasir
