// The chooser by a clock that is made up.
#include "runtime/ops/product_choice.h"

#include <map>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

constexpr ProductWay kAll[] = {ProductWay::kOneDnn, ProductWay::kColumns, ProductWay::kPanels,
                               ProductWay::kWidened};

const ProductChoice kDefault(ProductWay::kColumns, 64, ProductWay::kPanels);

TEST(ProductChoice, HoldsWhatItIsMadeWith) {
  for (const int64_t rows : {1, 2, 8, 9, 63, 64})
    EXPECT_EQ(kDefault.For(rows), ProductWay::kColumns);
  for (const int64_t rows : {65, 128, 129, 4096})
    EXPECT_EQ(kDefault.For(rows), ProductWay::kPanels);
}

TEST(ProductChoice, TakesTheFastestOfEachBand) {
  const std::map<int64_t, ProductWay> fast = {
      {1, ProductWay::kPanels},    {4, ProductWay::kOneDnn},  {8, ProductWay::kWidened},
      {16, ProductWay::kColumns},  {32, ProductWay::kPanels}, {64, ProductWay::kOneDnn},
      {128, ProductWay::kColumns}, {512, ProductWay::kOneDnn}};
  const ProductChoice choice =
      MeasureChoice(kDefault, kAll, 4096, 1e9,
                    [&](ProductWay way, int64_t rows) { return fast.at(rows) == way ? 1.0 : 2.0; });
  for (const auto& [rows, way] : fast) EXPECT_EQ(choice.For(rows), way) << rows;
  EXPECT_EQ(choice.For(2), ProductWay::kOneDnn);
  EXPECT_EQ(choice.For(5), ProductWay::kWidened);
  EXPECT_EQ(choice.For(33), ProductWay::kOneDnn);
  EXPECT_EQ(choice.For(2000), ProductWay::kOneDnn);
}

TEST(ProductChoice, StaysUnlessClearlySlower) {
  const ProductChoice near = MeasureChoice(kDefault, kAll, 4096, 1e9, [](ProductWay way, int64_t) {
    return way == ProductWay::kOneDnn ? 0.96 : 1.0;
  });
  EXPECT_TRUE(near == kDefault);
}

TEST(ProductChoice, OneDisturbedRunDecidesNothing) {
  int calls = 0;
  const ProductChoice choice =
      MeasureChoice(kDefault, kAll, 4096, 1e9, [&](ProductWay way, int64_t) {
        if (++calls % 7 == 0) return 100.0;
        return way == ProductWay::kOneDnn ? 1.5 : 1.0;
      });
  EXPECT_TRUE(choice == kDefault);
}

TEST(ProductChoice, EndsWithItsTimeAndItsRows) {
  std::map<int64_t, int> runs;
  const auto time = [&](ProductWay way, int64_t rows) {
    ++runs[rows];
    return way == ProductWay::kOneDnn ? 0.5 : 1.0;
  };
  const ProductChoice some = MeasureChoice(kDefault, kAll, 4096, 16.0, time);
  EXPECT_EQ(runs.size(), 2u);  // one band takes 14 s
  EXPECT_EQ(some.For(4), ProductWay::kOneDnn);
  EXPECT_EQ(some.For(8), ProductWay::kColumns);
  runs.clear();
  MeasureChoice(kDefault, kAll, 20, 1e9, time);
  EXPECT_EQ(runs.rbegin()->first, 16);
}

TEST(ProductChoice, OneWayNeedsNoTime) {
  const ProductWay only[] = {ProductWay::kColumns};
  const ProductChoice choice = MeasureChoice(kDefault, only, 4096, 1e9, [](ProductWay, int64_t) {
    ADD_FAILURE() << "nothing to compare";
    return 0.0;
  });
  EXPECT_TRUE(choice == kDefault);
}

}  // namespace
}  // namespace kvasir
