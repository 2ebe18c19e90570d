// The oracle against numbers worked out elsewhere: temperatures, and two cases of query groups of
// the published evaluation code's own tests.
#include "tests/reference/sparq_reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>

namespace kvasir::reference {
namespace {

Matrix Of(int64_t cols, std::initializer_list<float> values) {
  Matrix matrix(static_cast<int64_t>(values.size()) / cols, cols);
  matrix.data = values;
  return matrix;
}

TEST(SparqReference, TemperatureLiesBetweenThatOfRandomDimsAndAll) {
  const Matrix k = RandomMatrix(4, 4, 1), v = RandomMatrix(4, 4, 2);
  SparqSettings settings;
  settings.rank = settings.top_k = 2;
  const SparqResult a = Sparq(Of(4, {0.7f, -0.3f, 1.2f, -0.8f}), k, k, v, 0.5, settings);
  EXPECT_EQ(a.dims, (std::vector<int>{2, 3}));
  EXPECT_NEAR(a.tau[0], 1.63299, 1e-5);
  const SparqResult b = Sparq(Of(4, {0.8f, -0.2f, -1.3f, 0.4f}), k, k, v, 0.5, settings);
  EXPECT_EQ(b.dims, (std::vector<int>{0, 2}));
  EXPECT_NEAR(b.tau[0], 1.76383, 1e-5);
  settings.rank = 4;
  EXPECT_NEAR(Sparq(Of(4, {0.8f, -0.2f, -1.3f, 0.4f}), k, k, v, 0.5, settings).tau[0], 2.0, 1e-12);
}

// Four positions of four dimensions, worked out by hand. Only differences between keys matter to a
// softmax.
class SparqToy : public ::testing::Test {
 protected:
  static SparqSettings Settings(int rank, int top_k, bool mean) {
    SparqSettings settings;
    settings.rank = rank;
    settings.top_k = top_k;
    settings.mean_value = mean;
    return settings;
  }
  SparqResult Run(const SparqSettings& settings) const {
    return Sparq(q_, k_, k_, v_, 0.5, settings);
  }
  static void ExpectRow(const Matrix& actual, std::initializer_list<float> expected) {
    ASSERT_EQ(actual.data.size(), expected.size());
    for (size_t i = 0; i < actual.data.size(); ++i)
      EXPECT_NEAR(actual.data[i], expected.begin()[i], 2e-4) << i;
  }

  const Matrix q_ = Of(4, {0.7f, -0.3f, 1.2f, -0.8f});
  const Matrix k_ = Of(4, {0.2f, -0.1f, 0.8f, 0, -0.9f, 0.2f, -0.6f, 0.8f, 1, -0.6f, 0.7f, -0.1f,
                           -0.5f, 0, 0.8f, -0.5f});
  const Matrix v_ = Of(4, {0.2f, 0.7f, -0.5f, 0.4f, 0.6f, -0.8f, 1, -0.2f, -0.9f, 0.5f, 0.3f, 0.1f,
                           0.8f, -0.6f, 0.7f, -0.4f});
};

TEST_F(SparqToy, RanksByTwoDimensions) {
  const SparqResult result = Run(Settings(2, 2, true));
  EXPECT_EQ(result.dims, (std::vector<int>{2, 3}));
  const double s_hat[] = {0.2861, 0.0691, 0.2792, 0.3655};
  for (int j = 0; j < 4; ++j) EXPECT_NEAR(result.weights[0][j], s_hat[j], 2e-4);
  EXPECT_EQ(result.picks, (std::vector<int>{0, 3}));
  EXPECT_NEAR(result.alpha[0], 0.65168, 2e-4);
  ExpectRow(result.out, {0.3809f, 0.0279f, 0.1841f, -0.0009f});
}

TEST_F(SparqToy, RanksByAllDimensions) {
  const SparqResult result = Run(Settings(4, 2, true));
  EXPECT_EQ(result.picks, (std::vector<int>{0, 2}));
  EXPECT_NEAR(result.alpha[0], 0.6767, 2e-4);
  ExpectRow(result.out, {-0.2420f, 0.3786f, 0.0985f, 0.1442f});
  ExpectRow(Run(Settings(4, 2, false)).out, {-0.4413f, 0.5834f, -0.0336f, 0.2251f});
}

TEST_F(SparqToy, IsDenseWithAllPicks) {
  for (const int rank : {1, 4})
    ExpectRow(Run(Settings(rank, 4, true)).out, {-0.0515f, 0.1893f, 0.2208f, 0.0345f});
}

TEST_F(SparqToy, TheMeanOfTheUnselectedLeavesThePicksOut) {
  SparqSettings settings = Settings(4, 2, true);
  settings.mean_of_unselected = true;
  // alpha times the picks' mix, and the rest times the mean of V[1] and V[3].
  ExpectRow(Run(settings).out,
            {0.6767f * -0.4413f + 0.3233f * 0.7f, 0.6767f * 0.5834f - 0.3233f * 0.7f,
             0.6767f * -0.0336f + 0.3233f * 0.85f, 0.6767f * 0.2251f - 0.3233f * 0.3f});
}

TEST_F(SparqToy, PicksGrowToTheMassAskedFor) {
  SparqSettings settings = Settings(4, 1, true);
  settings.max_top_k = 4;
  settings.least_mass = 0.39;
  EXPECT_EQ(Run(settings).picks, std::vector<int>{2});
  settings.least_mass = 0.6;
  EXPECT_EQ(Run(settings).picks, (std::vector<int>{0, 2}));
  settings.least_mass = 0.9;
  EXPECT_EQ(Run(settings).picks, (std::vector<int>{0, 2, 3}));
  settings.max_top_k = 2;
  EXPECT_EQ(Run(settings).picks, (std::vector<int>{0, 2}));
}

TEST(SparqReference, MassOnThePicksIsAShareThatGrowsWithThem) {
  const Matrix q = RandomMatrix(2, 16, 4), k = RandomMatrix(40, 16, 5), v = RandomMatrix(40, 16, 6);
  std::vector<double> last(2, 0.0);
  for (int top_k = 6; top_k <= 40; ++top_k) {
    SparqSettings settings;
    settings.rank = 5;
    settings.top_k = top_k;
    settings.local_window = 4;
    const SparqResult result = Sparq(q, k, k, v, 0.25, settings);
    for (int j = 36; j < 40; ++j)
      EXPECT_EQ(std::count(result.picks.begin(), result.picks.end(), j), 1);
    for (int h = 0; h < 2; ++h) {
      EXPECT_GT(result.alpha[h], last[h]);
      EXPECT_LE(result.alpha[h], 1 + 1e-12);
      last[h] = result.alpha[h];
    }
  }
}

TEST(SparqReference, AGroupSharesItsDimensionsButNotItsTemperatures) {
  const Matrix keys[] = {Of(2, {1, 10}), Of(2, {20, 2})};
  const Matrix queries[] = {Of(2, {1, 10, -20, 2}), Of(2, {30, 3, 4, 40})};
  SparqSettings settings;
  settings.rank = settings.top_k = 1;
  const SparqResult first = Sparq(queries[0], keys[0], keys[0], keys[0], 1.0, settings);
  EXPECT_EQ(first.dims, std::vector<int>{0});
  EXPECT_NEAR(first.logits[0][0], 2.3452, 1e-4);
  EXPECT_NEAR(first.logits[1][0], -14.8324, 1e-4);
  const SparqResult second = Sparq(queries[1], keys[1], keys[1], keys[1], 1.0, settings);
  EXPECT_EQ(second.dims, std::vector<int>{1});
  EXPECT_NEAR(second.logits[0][0], 14.0712, 1e-4);
  EXPECT_NEAR(second.logits[1][0], 59.3296, 1e-4);
}

TEST(SparqReference, SumsOfSoftmaxesAndOfLogitsCanDisagree) {
  const Matrix q = Of(2, {6, 0, 0, 1}), k = Of(2, {1, -8, 0.2f, 0.5f, 0.1f, 0.9f, 0, 1});
  SparqSettings settings;
  settings.rank = 2;
  settings.top_k = 1;
  EXPECT_EQ(Sparq(q, k, k, k, 1.0, settings).picks, std::vector<int>{0});
  settings.sum_logits = true;
  EXPECT_EQ(Sparq(q, k, k, k, 1.0, settings).picks, std::vector<int>{1});
}

}  // namespace
}  // namespace kvasir::reference
