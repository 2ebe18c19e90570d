// Block formats against values of the PyPI package `gguf`: two random blocks of each type, as
// gguf_package_test.py wrote them (tests/golden/block_vectors.json). That test asks the package
// itself, where it can be had.

#include "runtime/formats/dequantize.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "runtime/formats/block_codes.h"

namespace kvasir::testing {
namespace {

std::optional<WeightFormat> FormatNamed(const std::string& name) {
  for (uint32_t id = 0; id < 64; ++id) {
    const auto type = FindTensorType(id);
    if (type && type->name == name) return ToWeightFormat(type->type);
  }
  return std::nullopt;
}

// CRC-32 as zlib counts it.
uint32_t Crc32(const uint8_t* bytes, size_t count) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < count; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

TEST(DequantizeTest, EqualsThePackagesValuesToTheBit) {
  std::ifstream file("tests/golden/block_vectors.json");
  const nlohmann::json vectors = nlohmann::json::parse(file);
  ASSERT_EQ(vectors.size(), 14u);
  for (const auto& vector : vectors) {
    const auto type = vector["type"].get<std::string>();
    SCOPED_TRACE(type);
    const auto format = FormatNamed(type);
    ASSERT_TRUE(format.has_value());
    const std::string blocks = absl::HexStringToBytes(vector["blocks"].get<std::string>());
    const auto count = vector["count"].get<size_t>();
    ASSERT_EQ(static_cast<size_t>(RowBytes(*format, static_cast<int64_t>(count))), blocks.size());
    // At every alignment that a mapped file may have.
    for (size_t shift = 0; shift < 4; ++shift) {
      const std::string shifted = std::string(shift, 'x') + blocks;
      std::vector<float> values(count);
      Dequantize(*format, shifted.data() + shift, static_cast<int64_t>(count), values.data());
      for (size_t i = 0; i < 3; ++i) EXPECT_EQ(values[i], vector["first"][i].get<float>()) << i;
      EXPECT_EQ(Crc32(reinterpret_cast<const uint8_t*>(values.data()), count * sizeof(float)),
                vector["crc32"].get<uint32_t>());
    }
  }
}

TEST(DequantizeTest, CodesStayWithinTheirBits) {
  std::ifstream file("tests/golden/block_vectors.json");
  for (const auto& vector : nlohmann::json::parse(file)) {
    const auto format = *FormatNamed(vector["type"].get<std::string>());
    const std::string blocks = absl::HexStringToBytes(vector["blocks"].get<std::string>());
    BlockCodes block;
    UnpackBlock(format, reinterpret_cast<const uint8_t*>(blocks.data()), &block);
    for (int i = 0; i < Info(format).block_elements; ++i) {
      EXPECT_LT(block.codes[i], 1 << Info(format).code_bits);
    }
  }
}

TEST(DequantizeTest, ZeroPointsAreSubtractedFromCodes) {
  // scale 0.5, zero point 9, codes 0..15 in the low halves and 15..0 in the high ones.
  std::vector<uint8_t> block = {0x00, 0x38, 9};
  for (int j = 0; j < 16; ++j) block.push_back(static_cast<uint8_t>(j | (15 - j) << 4));
  float values[32];
  Dequantize(WeightFormat::kInt4Zero32, block.data(), 32, values);
  for (int j = 0; j < 16; ++j) {
    EXPECT_EQ(values[j], 0.5f * static_cast<float>(j - 9));
    EXPECT_EQ(values[j + 16], 0.5f * static_cast<float>(15 - j - 9));
  }
}

TEST(DequantizeTest, PlainNumbers) {
  const uint8_t bytes[] = {0x00, 0x3c, 0x00, 0xc0};  // f16: 1, -2
  float values[2];
  Dequantize(WeightFormat::kF16, bytes, 2, values);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], -2.0f);
  const uint8_t wide[] = {0x80, 0x3f, 0x00, 0xc0};  // bf16: 1, -2
  Dequantize(WeightFormat::kBf16, wide, 2, values);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], -2.0f);
}

}  // namespace
}  // namespace kvasir::testing
