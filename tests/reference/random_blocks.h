// Random matrices in block formats: any codes and small scales, with scales of usual sizes. Header
// only.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "base/bf16.h"
#include "runtime/formats/dequantize.h"
#include "runtime/ops/tensor.h"
#include "tests/reference/naive_ops.h"

namespace kvasir::reference {

inline const WeightFormat kBlockFormats[] = {
    WeightFormat::kQ8_0,        WeightFormat::kQ4_0,         WeightFormat::kQ4_1,
    WeightFormat::kQ5_0,        WeightFormat::kQ5_1,         WeightFormat::kIQ4_NL,
    WeightFormat::kMXFP4,       WeightFormat::kNVFP4,        WeightFormat::kQ2_K,
    WeightFormat::kQ3_K,        WeightFormat::kQ4_K,         WeightFormat::kQ5_K,
    WeightFormat::kQ6_K,        WeightFormat::kIQ4_XS,       WeightFormat::kInt4Group32,
    WeightFormat::kInt4Group64, WeightFormat::kInt4Group128, WeightFormat::kInt4Zero32,
    WeightFormat::kInt4Zero64,  WeightFormat::kInt4Zero128,  WeightFormat::kInt4Wide32,
    WeightFormat::kInt4Wide64,  WeightFormat::kInt4Wide128,  WeightFormat::kInt8Group128,
    WeightFormat::kE4m3Group128};

// Where the f16 scales of a block stand.
inline std::vector<int> ScaleOffsets(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ5_1:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K:
      return {0, 2};
    case WeightFormat::kQ2_K:
      return {80, 82};
    case WeightFormat::kQ3_K:
      return {108};
    case WeightFormat::kQ6_K:
      return {208};
    case WeightFormat::kMXFP4:
    case WeightFormat::kNVFP4:
      return {};
    default:
      return {0};
  }
}

// A stored matrix at an odd address, and its values.
class RandomBlocks {
 public:
  RandomBlocks(WeightFormat format, int64_t rows, int64_t cols, uint32_t seed, float factor = 1)
      : values(rows, cols) {
    const WeightFormatInfo& info = Info(format);
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> scale(-0.01f, 0.01f);
    bytes_.resize(static_cast<size_t>(rows * RowBytes(format, cols)) + 1);
    for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>(random());
    for (size_t at = 1; at < bytes_.size(); at += info.block_bytes) {
      if (info.wide_scales) {
        const float value = scale(random);
        std::memcpy(&bytes_[at], &value, sizeof(value));
      }
      for (const int offset : ScaleOffsets(format)) {
        if (info.wide_scales) break;
        const f16 value = ToF16(scale(random));
        std::memcpy(&bytes_[at + offset], &value, sizeof(value));
      }
      if (format == WeightFormat::kMXFP4) bytes_[at] = static_cast<uint8_t>(118 + random() % 10);
      if (format == WeightFormat::kNVFP4) {
        for (int g = 0; g < 4; ++g) bytes_[at + g] = static_cast<uint8_t>(random() % 0x7f);
      }
      if (info.has_zero_points) {
        bytes_[at + info.scale_bytes()] = static_cast<uint8_t>(random() % 17);
      }
    }
    stored_ = {bytes_.data() + 1, format, rows, cols, nullptr, factor};
    for (int64_t r = 0; r < rows; ++r) {
      Dequantize(format, bytes_.data() + 1 + r * RowBytes(format, cols), cols, values.row(r));
      for (int64_t c = 0; c < cols; ++c) values.at(r, c) *= factor;
    }
  }

  const StoredMatrix& stored() const { return stored_; }

  Matrix values;

 private:
  std::vector<uint8_t> bytes_;
  StoredMatrix stored_;
};

}  // namespace kvasir::reference
