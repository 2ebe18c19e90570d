#include "runtime/sampling/row_kernels.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace kvasir {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Every instruction set that this build has code for and this machine can run.
class RowKernelsTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::GetChosenTarget().Update(GetParam()); }
  void TearDown() override { hwy::GetChosenTarget().Update(hwy::SupportedTargets()); }
};

std::vector<int64_t> UsableTargets() {
  std::vector<int64_t> targets;
  int64_t left = hwy::SupportedTargets() & HWY_TARGETS;
  for (; left != 0; left &= left - 1) targets.push_back(left & -left);
  return targets;
}

INSTANTIATE_TEST_SUITE_P(Targets, RowKernelsTest, testing::ValuesIn(UsableTargets()),
                         [](const auto& info) { return std::string(hwy::TargetName(info.param)); });

// Sizes around the vector lengths and the block, and rows of several blocks.
const size_t kSizes[] = {1,   2,   3,   7,   8,   9,   15,  16,  17,  31,   33,   63,   64,  65,
                         127, 255, 256, 257, 300, 511, 512, 513, 777, 1023, 1024, 1025, 2000};

// Exactly `size` floats on the heap, so that the address sanitizer sees a read beyond the row.
std::vector<float> RandomRow(size_t size, uint32_t seed, bool with_odd_values) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 4.0f);
  std::vector<float> row(size);
  for (float& value : row) {
    value = normal(random);
    if (with_odd_values) {
      switch (random() % 16) {
        case 0:
          value = kNan;
          break;
        case 1:
          value = -kInfinity;
          break;
        case 2:
          value = std::round(value);
          break;  // ties
        case 3:
          value = -0.0f;
          break;
        default:
          break;
      }
    }
  }
  return row;
}

float Naive(float value) { return std::isnan(value) ? -kInfinity : std::min(value, kLargest); }

TEST_P(RowKernelsTest, BlockMaximaAreThoseOfTheNaiveLoop) {
  for (const size_t size : kSizes) {
    for (const bool odd : {false, true}) {
      std::vector<float> row = RandomRow(size, static_cast<uint32_t>(size), odd);
      if (odd && size > 40) row[size - 1] = kInfinity;
      std::vector<float> maxima(NumRowBlocks(size));
      BlockMaxima(row.data(), size, maxima.data());
      for (size_t block = 0; block < maxima.size(); ++block) {
        float expected = -kInfinity;
        for (size_t i = block * kRowBlock; i < std::min(size, (block + 1) * kRowBlock); ++i) {
          expected = std::max(expected, Naive(row[i]));
        }
        EXPECT_EQ(maxima[block], expected) << "size " << size << " block " << block;
      }
    }
  }
}

TEST_P(RowKernelsTest, SumsAndWeightsMatchDoubles) {
  for (const size_t size : kSizes) {
    for (const float temperature : {0.01f, 0.7f, 1.0f, 50.0f}) {
      const std::vector<float> row = RandomRow(size, static_cast<uint32_t>(size) + 1, true);
      float max = -kInfinity;
      for (const float value : row) max = std::max(max, Naive(value));
      if (max == -kInfinity) continue;
      std::vector<float> weights(size, -1.0f);
      std::vector<float> sums(NumRowBlocks(size), -1.0f);
      ExpWeights(row.data(), size, max, 1 / temperature, weights.data());
      BlockExpSums(row.data(), size, max, 1 / temperature, sums.data());
      for (size_t block = 0; block < sums.size(); ++block) {
        double expected_sum = 0;
        for (size_t i = block * kRowBlock; i < std::min(size, (block + 1) * kRowBlock); ++i) {
          const double scaled =
              (static_cast<double>(Naive(row[i])) - max) / static_cast<double>(temperature);
          const double expected = std::exp(scaled);
          // exp turns the argument's rounding (three operations) into a relative error; 4 more for
          // exp itself.
          const double tolerance = expected * 0x1p-24 * (3 * std::abs(scaled) + 4) + 1e-37;
          if (scaled < -1e9) {
            EXPECT_EQ(weights[i], 0.0f);
          } else {
            EXPECT_NEAR(weights[i], expected, tolerance) << "size " << size << " i " << i;
          }
          expected_sum += expected;
        }
        EXPECT_NEAR(sums[block], expected_sum, 2e-5 * expected_sum + 1e-36);
      }
    }
  }
}

TEST_P(RowKernelsTest, OddValuesHaveNoWeight) {
  const std::vector<float> row = {kNan, -kInfinity, 1.0f, kInfinity, -kLargest, kLargest, -kNan};
  std::vector<float> weights(row.size());
  ExpWeights(row.data(), row.size(), kLargest, 1.0f, weights.data());
  EXPECT_EQ(weights, (std::vector<float>{0, 0, 0, 1, 0, 1, 0}));
}

TEST_P(RowKernelsTest, CompactsWhatReachesTheBound) {
  for (const size_t size : kSizes) {
    std::vector<float> row = RandomRow(size, static_cast<uint32_t>(size) + 2, true);
    if (size > 20) row[size / 2] = kInfinity;
    std::vector<float> maxima(NumRowBlocks(size));
    BlockMaxima(row.data(), size, maxima.data());
    for (const float bound : {-kLargest, -5.0f, 0.0f, 1.0f, 9.0f, kLargest}) {
      std::vector<float> values(size + kCompactSlack);
      std::vector<int32_t> ids(size + kCompactSlack);
      const size_t found =
          CompactAtLeast(row.data(), size, maxima.data(), bound, values.data(), ids.data());
      std::vector<int32_t> expected_ids;
      for (size_t i = 0; i < size; ++i) {
        if (Naive(row[i]) >= bound) expected_ids.push_back(static_cast<int32_t>(i));
      }
      ASSERT_EQ(found, expected_ids.size()) << "size " << size << " bound " << bound;
      ids.resize(found);
      EXPECT_EQ(ids, expected_ids);
      for (size_t i = 0; i < found; ++i) EXPECT_EQ(values[i], Naive(row[ids[i]]));
    }
  }
}

}  // namespace
}  // namespace kvasir
