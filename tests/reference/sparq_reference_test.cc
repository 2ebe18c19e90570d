// The oracle against numbers worked out elsewhere: temperatures, and two cases of query groups of the published
// evaluation code's own tests.
#include "tests/reference/sparq_reference.h"

#include <gtest/gtest.h>

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
