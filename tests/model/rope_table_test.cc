// Rotary angles against values worked out by hand from the formulas' sources.

#include "runtime/model/rope_table.h"

#include <cmath>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

RopeSpec Rope(int rotary_dim) {
  RopeSpec rope;
  rope.rotary_dim = rotary_dim;
  return rope;
}

TEST(RopeTableTest, PlainFrequencies) {
  // theta 10000, 8 dimensions: 10000^(-2i/8) = 10^-i.
  const std::vector<float> frequencies = RopeInverseFrequencies(Rope(8));
  ASSERT_EQ(frequencies.size(), 4u);
  EXPECT_FLOAT_EQ(frequencies[0], 1.0f);
  EXPECT_FLOAT_EQ(frequencies[1], 0.1f);
  EXPECT_FLOAT_EQ(frequencies[2], 0.01f);
  EXPECT_FLOAT_EQ(frequencies[3], 0.001f);
}

TEST(RopeTableTest, LinearScalingDividesPositions) {
  RopeSpec rope = Rope(8);
  rope.scaling = RopeSpec::Scaling::kLinear;
  rope.factor = 4.0f;
  EXPECT_FLOAT_EQ(RopeInverseFrequencies(rope)[1], 0.025f);
  // Position 4p under factor 4 = position p without scaling.
  const RopeTable scaled(rope, 100);
  const RopeTable plain(Rope(8), 100);
  for (int position = 0; position < 25; ++position) {
    for (int i = 0; i < 4; ++i) {
      EXPECT_NEAR(scaled.view().cos[4 * position * 4 + i], plain.view().cos[position * 4 + i],
                  1e-5);
    }
  }
}

// theta 10000, 8 dimensions, original context 400, low 1, high 4, factor 8: wavelengths 2 pi {1,
// 10, 100, 1000} = 6.28, 62.8, 628, 6283; kept below 100, divided beyond 400.
TEST(RopeTableTest, Llama3KeepsShortAndDividesLongWavelengths) {
  RopeSpec rope = Rope(8);
  rope.scaling = RopeSpec::Scaling::kLlama3;
  rope.factor = 8.0f;
  rope.low_freq_factor = 1.0f;
  rope.high_freq_factor = 4.0f;
  rope.original_max_positions = 400;
  std::vector<float> frequencies = RopeInverseFrequencies(rope);
  EXPECT_FLOAT_EQ(frequencies[0], 1.0f);
  EXPECT_FLOAT_EQ(frequencies[1], 0.1f);
  EXPECT_FLOAT_EQ(frequencies[2], 0.01f / 8);
  EXPECT_FLOAT_EQ(frequencies[3], 0.001f / 8);
  // Original context 1200: 628.3 lies between 300 and 1200. Share kept = (1200 / 628.3185 - 1) / 3
  // = 0.30328644; frequency = (1 - 0.30328644) * 0.00125 + 0.30328644 * 0.01 = 0.00390375635.
  rope.original_max_positions = 1200;
  frequencies = RopeInverseFrequencies(rope);
  EXPECT_FLOAT_EQ(frequencies[1], 0.1f);
  EXPECT_NEAR(frequencies[2], 0.00390375635, 1e-9);
  EXPECT_FLOAT_EQ(frequencies[3], 0.001f / 8);
}

TEST(RopeTableTest, TablesHoldCosAndSin) {
  const RopeTable table(Rope(64), 2048);
  EXPECT_EQ(table.view().rotary_dim, 64);
  const std::vector<float> frequencies = RopeInverseFrequencies(Rope(64));
  for (const int position : {0, 1, 7, 1023, 1024, 2047}) {
    for (int i = 0; i < 32; ++i) {
      const float angle = static_cast<float>(position) * frequencies[i];
      EXPECT_FLOAT_EQ(table.view().cos[position * 32 + i], std::cos(angle));
      EXPECT_NEAR(table.view().sin[position * 32 + i], std::sin(angle), 1e-6);
    }
  }
}

}  // namespace
}  // namespace kvasir
