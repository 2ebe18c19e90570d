// Integers with scales: what the packed bytes mean, and how far they are from the values.

#include "runtime/conversion/integer_weights.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/bf16.h"
#include "gtest/gtest.h"

namespace kvasir::testing {
namespace {

float Scale(const IntegerRows& rows, int64_t at) { return ToFloat(bf16{rows.scales[at]}); }

int Code(const IntegerFormat& format, const IntegerRows& rows, int64_t at) {
  if (format.bits == 8) return static_cast<int8_t>(rows.codes[at]);
  // The word's bytes stand lowest first, as every x86 stores an int32.
  return (rows.codes[at / 2] >> (at % 2 == 0 ? 0 : 4) & 15) - 8;
}

TEST(IntegerWeightsTest, FourBitsStandInOrder) {
  std::vector<float> values(32);
  for (int i = 0; i < 32; ++i) values[i] = static_cast<float>(i % 16 - 8);
  const IntegerFormat format{.bits = 4, .group = 32};
  const IntegerRows rows = ToIntegers(format, values, 32);
  ASSERT_EQ(rows.codes.size(), 16u);
  ASSERT_EQ(rows.scales.size(), 1u);
  EXPECT_EQ(Scale(rows, 0), 1.0f);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(Code(format, rows, i), i % 16 - 8) << i;
  EXPECT_EQ(rows.codes[0], 0x10);  // codes 0 and 1
}

TEST(IntegerWeightsTest, ErrorsAreThoseOfTheNumberOfBits) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 0.02f);
  constexpr int64_t kRows = 5, kCols = 384;
  std::vector<float> values(kRows * kCols);
  for (float& value : values) value = normal(random);
  for (const IntegerFormat format :
       {IntegerFormat{8, 0}, IntegerFormat{4, 128}, IntegerFormat{4, 64}, IntegerFormat{4, 32}}) {
    const IntegerRows rows = ToIntegers(format, values, kCols);
    ASSERT_EQ(static_cast<int64_t>(rows.codes.size()), kRows * format.code_bytes(kCols));
    ASSERT_EQ(static_cast<int64_t>(rows.scales.size()), kRows * format.scales(kCols));
    const int64_t group = format.group == 0 ? kCols : format.group;
    double error = 0, size = 0;
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      const float value = Scale(rows, i / group) * static_cast<float>(Code(format, rows, i));
      error += std::pow(value - values[i], 2);
      size += std::pow(values[i], 2);
    }
    const double relative = std::sqrt(error / size);
    EXPECT_LT(relative, format.bits == 8 ? 0.01 : 0.13) << format.bits << " " << format.group;
    EXPECT_GT(relative, format.bits == 8 ? 0.001 : 0.03);
  }
}

TEST(IntegerWeightsTest, NothingAndWhatIsNoNumber) {
  for (const IntegerFormat format : {IntegerFormat{8, 0}, IntegerFormat{4, 32}}) {
    std::vector<float> values(64, 0.0f);
    for (int i = 0; i < 64; ++i) EXPECT_EQ(Code(format, ToIntegers(format, values, 64), i), 0);
    values[3] = std::numeric_limits<float>::quiet_NaN();
    values[4] = std::numeric_limits<float>::infinity();
    values[5] = 1;
    const IntegerRows rows = ToIntegers(format, values, 64);
    EXPECT_EQ(Code(format, rows, 3), 0);
    EXPECT_NEAR(Code(format, rows, 5) * Scale(rows, 0), 1, 0.01);
  }
}

TEST(IntegerWeightsTest, TheConfigSaysWhatStandsThere) {
  const auto four = QuantizationConfigOf({.bits = 4, .group = 64}, {"lm_head"});
  EXPECT_EQ(four["format"], "pack-quantized");
  EXPECT_EQ(four["config_groups"]["group_0"]["weights"]["group_size"], 64);
  EXPECT_EQ(four["ignore"][0], "lm_head");
  const auto eight = QuantizationConfigOf({.bits = 8}, {});
  EXPECT_EQ(eight["format"], "int-quantized");
  EXPECT_EQ(eight["config_groups"]["group_0"]["weights"]["strategy"], "channel");
}

}  // namespace
}  // namespace kvasir::testing
