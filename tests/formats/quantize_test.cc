// Quantising rows: errors within what the formats allow, below rounding's with the plain scale, and
// values that no scale suits.

#include "runtime/formats/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/bf16.h"
#include "gtest/gtest.h"
#include "runtime/formats/dequantize.h"

namespace kvasir::testing {
namespace {

using enum WeightFormat;

constexpr WeightFormat kTargets[] = {kInt4Group32, kInt4Group64, kInt4Group128,
                                     kInt4Zero32,  kInt4Zero64,  kInt4Zero128,
                                     kQ4_0,        kQ4_K,        kQ8_0};

std::vector<float> RoundTrip(WeightFormat format, const std::vector<float>& x) {
  const auto count = static_cast<int64_t>(x.size());
  std::vector<uint8_t> blocks(static_cast<size_t>(RowBytes(format, count)));
  QuantizeRow(format, x.data(), count, blocks.data());
  std::vector<float> values(x.size());
  Dequantize(format, blocks.data(), count, values.data());
  return values;
}

std::vector<float> NormalRow(size_t count, uint32_t seed, float sigma = 0.02f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> x(count);
  for (float& value : x) value = normal(random);
  return x;
}

double RootMeanSquare(const std::vector<float>& got, const std::vector<float>& x) {
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(got[i] - x[i], 2);
    size += std::pow(x[i], 2);
  }
  return std::sqrt(error / size);
}

TEST(QuantizeTest, OnlyTheseFormatsAreWritten) {
  int count = 0;
  for (int format = 0; format <= static_cast<int>(kE4m3Group128); ++format) {
    count += CanQuantizeTo(static_cast<WeightFormat>(format)) ? 1 : 0;
  }
  EXPECT_EQ(count, static_cast<int>(std::size(kTargets)));
}

TEST(QuantizeTest, ErrorsAreThoseOfTheNumberOfBits) {
  const std::vector<float> x = NormalRow(256 * 64, 1);
  EXPECT_LT(RootMeanSquare(RoundTrip(kQ8_0, x), x), 0.006);
  for (const WeightFormat format : {kInt4Group32, kInt4Zero32, kQ4_0, kQ4_K}) {
    EXPECT_LT(RootMeanSquare(RoundTrip(format, x), x), 0.095) << Info(format).name;
  }
  EXPECT_LT(RootMeanSquare(RoundTrip(kInt4Group64, x), x), 0.11);
  EXPECT_LT(RootMeanSquare(RoundTrip(kInt4Group128, x), x), 0.12);
}

// Values that a scale of the format gives are found again to the bit of their scale.
TEST(QuantizeTest, RepresentableRowsComeBack) {
  for (const WeightFormat format : {kInt4Group32, kInt4Group64, kInt4Group128, kQ4_0}) {
    std::mt19937 random(3);
    std::vector<float> x(512);
    for (size_t i = 0; i < x.size(); ++i) {
      const int code = i % 16 == 0 ? -8 : static_cast<int>(random() % 16) - 8;
      x[i] = 0.0078125f * static_cast<float>(code);
    }
    EXPECT_EQ(RoundTrip(format, x), x) << Info(format).name;
  }
}

// Against the scale of the largest magnitude: the squared error that is weighted with the squared
// values, which is what the search looks at.
TEST(QuantizeTest, TheSearchBeatsTheLargestMagnitudesScale) {
  double searched = 0, plain = 0;
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> x = NormalRow(32, seed);
    const std::vector<float> got = RoundTrip(kInt4Group32, x);
    const float largest = *std::max_element(
        x.begin(), x.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
    const float scale = ToFloat(ToF16(largest / -8));
    for (size_t i = 0; i < x.size(); ++i) {
      const float rounded = std::clamp(std::nearbyint(x[i] / scale), -8.0f, 7.0f) * scale;
      searched += std::pow(x[i] * (got[i] - x[i]), 2);
      plain += std::pow(x[i] * (rounded - x[i]), 2);
    }
  }
  EXPECT_LT(searched, 0.9 * plain);
}

// A grid that may lie anywhere beats one that lies about zero, also where values are of one sign.
TEST(QuantizeTest, ZeroPointsLowerTheError) {
  const std::vector<float> x = NormalRow(256 * 64, 7);
  const double zeros = RootMeanSquare(RoundTrip(kInt4Zero32, x), x);
  EXPECT_LT(zeros, 0.083);
  EXPECT_LT(zeros, 0.93 * RootMeanSquare(RoundTrip(kInt4Group32, x), x));
  std::vector<float> positive = x;
  for (float& value : positive) value = 0.1f + std::abs(value);
  EXPECT_LT(RootMeanSquare(RoundTrip(kInt4Zero32, positive), positive), 0.025);
}

// Values that a grid of the format gives are found again.
TEST(QuantizeTest, RepresentableRowsWithZeroPointsComeBack) {
  for (const int zero : {0, 3, 8, 15}) {
    std::mt19937 random(3);
    std::vector<float> x(128);
    for (size_t i = 0; i < x.size(); ++i) {
      const int code = i % 32 == 0 ? 0 : i % 32 == 1 ? 15 : static_cast<int>(random() % 16);
      x[i] = 0.0078125f * static_cast<float>(code - zero);
    }
    EXPECT_EQ(RoundTrip(kInt4Zero32, x), x) << "zero point " << zero;
  }
}

TEST(QuantizeTest, UnusualValues) {
  for (const WeightFormat format : kTargets) {
    SCOPED_TRACE(Info(format).name);
    const auto block = static_cast<size_t>(Info(format).block_elements);
    EXPECT_EQ(RoundTrip(format, std::vector<float>(block, 0.0f)), std::vector<float>(block, 0.0f));
    // One value among zeros; a constant; all of one sign.
    std::vector<float> single(block, 0.0f);
    single[block / 2] = -0.37f;
    EXPECT_NEAR(RoundTrip(format, single)[block / 2], -0.37f, 0.37f * 0.04f);
    const std::vector<float> constant(block, 0.25f);
    EXPECT_LT(RootMeanSquare(RoundTrip(format, constant), constant), 0.04);
    // Below and beyond what f16 scales reach, and what is no number: finite, and no larger.
    for (const float size : {1e-30f, 1e-12f, 1e9f, 1e30f}) {
      const std::vector<float> x = NormalRow(block, 5, size);
      const float most = std::abs(*std::max_element(
          x.begin(), x.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
      for (const float value : RoundTrip(format, x)) {
        EXPECT_TRUE(std::isfinite(value));
        EXPECT_LE(std::abs(value), 1.3f * most + 1e-6f);
      }
    }
    std::vector<float> broken = NormalRow(block, 6);
    broken[0] = std::numeric_limits<float>::quiet_NaN();
    broken[1] = std::numeric_limits<float>::infinity();
    std::vector<float> zeros = broken;
    zeros[0] = zeros[1] = 0.0f;
    EXPECT_EQ(RoundTrip(format, broken), RoundTrip(format, zeros));
  }
}

}  // namespace
}  // namespace kvasir::testing
