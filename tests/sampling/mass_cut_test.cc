#include "runtime/sampling/mass_cut.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

// The twin: sorts everything.
size_t NaiveCount(const std::vector<float>& values, const std::vector<float>& weights,
                  double target, std::vector<int32_t>* order) {
  order->resize(values.size());
  std::iota(order->begin(), order->end(), 0);
  std::stable_sort(order->begin(), order->end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  double mass = 0;
  for (size_t i = 0; i < order->size(); ++i) {
    mass += weights.empty() ? 1.0 : weights[(*order)[i]];
    if (mass >= target) return i + 1;
  }
  return values.size();
}

size_t KeptCount(const MassCut& cut, const std::vector<float>& values) {
  size_t kept = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    kept += cut.Keeps(values[i], static_cast<int32_t>(i)) ? 1 : 0;
  }
  return kept;
}

enum class Shape { kNormal, kTies, kEqual, kOutlier, kPowers, kDenormal, kHuge };

std::vector<float> MakeValues(Shape shape, size_t size, std::mt19937* random) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> values(size);
  for (float& value : values) {
    switch (shape) {
      case Shape::kNormal:
        value = normal(*random);
        break;
      case Shape::kTies:
        value = static_cast<float>((*random)() % 5);
        break;
      case Shape::kEqual:
        value = 1.5f;
        break;
      case Shape::kOutlier:
        value = 1e-3f * normal(*random);
        break;
      case Shape::kPowers:
        value = std::ldexp(1.0f, static_cast<int>((*random)() % 250) - 125);
        break;
      case Shape::kDenormal:
        value = std::ldexp(static_cast<float>((*random)() % 64), -149);
        break;
      case Shape::kHuge:
        value = normal(*random) * 1e37f;
        break;
    }
  }
  if (shape == Shape::kOutlier) values[size / 2] = 1e9f;
  return values;
}

TEST(MassCutTest, KeepsWhatTheSortedListKeeps) {
  std::mt19937 random(1);
  MassCutFinder finder;
  for (const Shape shape : {Shape::kNormal, Shape::kTies, Shape::kEqual, Shape::kOutlier,
                            Shape::kPowers, Shape::kDenormal, Shape::kHuge}) {
    for (const size_t size : {1, 2, 5, 63, 64, 65, 100, 1000, 5000}) {
      const std::vector<float> values = MakeValues(shape, size, &random);
      // Whole numbers as weights: their sums are exact in any order, so the twin's count is the
      // only right one.
      std::vector<float> weights(size);
      for (float& weight : weights) weight = static_cast<float>(random() % 8);
      weights[0] = 1;
      const double mass = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (const double fraction : {1e-9, 0.1, 0.5, 0.9, 0.999, 1.0}) {
        std::vector<int32_t> order;
        const size_t expected = NaiveCount(values, weights, fraction * mass, &order);
        const MassCut cut = finder.Find(values, weights, fraction * mass);
        ASSERT_EQ(KeptCount(cut, values), expected)
            << "shape " << static_cast<int>(shape) << " size " << size << " of " << fraction;
        ASSERT_EQ(cut.position, order[expected - 1]);
      }
      for (size_t k : {size_t{1}, size / 3 + 1, size}) {
        ASSERT_EQ(KeptCount(finder.Find(values, {}, static_cast<double>(k)), values), k);
      }
    }
  }
}

TEST(MassCutTest, KeepsAllWhenTheTargetIsOutOfReach) {
  MassCutFinder finder;
  std::mt19937 random(2);
  const std::vector<float> values = MakeValues(Shape::kNormal, 1000, &random);
  EXPECT_EQ(KeptCount(finder.Find(values, {}, 1e9), values), 1000u);
}

TEST(MassCutTest, OfEqualValuesTheFirstPositionsStay) {
  MassCutFinder finder;
  const std::vector<float> values(500, -2.0f);
  const MassCut cut = finder.Find(values, {}, 7);
  EXPECT_TRUE(cut.Keeps(values[6], 6));
  EXPECT_FALSE(cut.Keeps(values[7], 7));
}

}  // namespace
}  // namespace kvasir
