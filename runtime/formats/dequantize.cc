#include "runtime/formats/dequantize.h"

#include <algorithm>
#include <cstring>

#include "base/bf16.h"
#include "base/e4m3.h"
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
// `count`: of elements wanted, at most a block.
void DequantizeBlock(const WeightFormatInfo& info, const BlockCodes& block, int count, float* out) {
  for (int begin = 0, g = 0; begin < count; begin += info.group_elements, ++g) {
    const int level = info.two_level ? 0 : g;
    const float scale = block.d[level] * static_cast<float>(block.scales[g]);
    const float min = info.has_mins ? block.dmin[level] * static_cast<float>(block.mins[g]) : 0.0f;
    for (int i = begin; i < std::min(count, begin + info.group_elements); ++i) {
      const float code =
          info.e4m3 ? E4m3ToFloat(block.codes[i])
                    : static_cast<float>(info.table != nullptr ? info.table[block.codes[i]]
                                                               : block.codes[i] - block.zeros[g]);
      const float product = scale * code;
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
  BlockCodes block;
  for (int64_t i = 0; i < count; i += info.block_elements) {
    UnpackBlock(format, bytes, &block);
    const auto wanted = static_cast<int>(std::min<int64_t>(info.block_elements, count - i));
    DequantizeBlock(info, block, wanted, out + i);
    bytes += info.block_bytes;
  }
}

}  // namespace kvasir
