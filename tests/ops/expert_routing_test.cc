#include "runtime/ops/layers/expert_routing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;
using Score = ExpertRouting::Score;
using ::testing::ElementsAre;

// One row's experts and weights, in double and by sorting whole lists.
std::map<int, double> NaiveRoute(const float* logits, const ExpertRouting& routing) {
  const int n = routing.experts;
  const auto softmax = [](std::vector<double> x) {
    const double max = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double& v : x) sum += v = std::exp(v - max);
    for (double& v : x) v /= sum;
    return x;
  };
  const auto best = [](const std::vector<double>& x) {
    std::vector<int> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
    return order;
  };
  std::vector<double> scores(logits, logits + n);
  if (routing.score == Score::kSoftmax) scores = softmax(scores);
  if (routing.score == Score::kSigmoid) {
    for (double& s : scores) s = 1 / (1 + std::exp(-s));
  }
  std::vector<double> choice = scores;
  if (routing.choice_bias != nullptr) {
    for (int e = 0; e < n; ++e) choice[e] += routing.choice_bias[e];
  }
  const int size = n / routing.groups;
  std::vector<double> group_scores;
  for (int g = 0; g < routing.groups; ++g) {
    std::vector<double> group(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    std::sort(group.begin(), group.end(), std::greater<>());
    group_scores.push_back(
        std::accumulate(group.begin(), group.begin() + routing.group_score_top, 0.0));
  }
  const std::vector<int> group_order = best(group_scores);
  for (int i = routing.groups_chosen; i < routing.groups; ++i) {
    for (int e = 0; e < size; ++e) {
      choice[group_order[i] * size + e] = -std::numeric_limits<double>::infinity();
    }
  }
  const std::vector<int> order = best(choice);
  std::vector<double> weights;
  for (int i = 0; i < routing.chosen; ++i) weights.push_back(scores[order[i]]);
  if (routing.score == Score::kSoftmaxOfChosen) weights = softmax(weights);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::map<int, double> routed;
  for (int i = 0; i < routing.chosen; ++i) {
    double w = weights[i] * routing.weight_scale / (routing.renormalize ? sum : 1);
    if (routing.expert_scale != nullptr) w *= routing.expert_scale[order[i]];
    routed[order[i]] = w;
  }
  return routed;
}

void ExpectRoutedLikeNaive(const Matrix& logits, const ExpertRouting& routing) {
  Matrix scratch = logits;
  ExpertRows routed;
  RouteRows(View(scratch), routing, &routed);
  ASSERT_EQ(routed.begin.size(), static_cast<size_t>(routing.experts + 1));
  ASSERT_EQ(routed.begin.back(), logits.rows * routing.chosen);
  std::vector<std::map<int, double>> by_row(logits.rows);
  for (int e = 0; e < routing.experts; ++e) {
    const auto rows = routed.RowsOf(e);
    ASSERT_TRUE(std::is_sorted(rows.begin(), rows.end()));
    for (size_t i = 0; i < rows.size(); ++i) by_row[rows[i]][e] = routed.WeightsOf(e)[i];
  }
  for (int64_t r = 0; r < logits.rows; ++r) {
    const std::map<int, double> expected = NaiveRoute(logits.row(r), routing);
    ASSERT_EQ(by_row[r].size(), expected.size()) << "row " << r;
    for (const auto& [expert, weight] : expected) {
      ASSERT_EQ(by_row[r].count(expert), 1u) << "row " << r << ", expert " << expert;
      ASSERT_NEAR(by_row[r][expert], weight, std::abs(weight) * 1e-5 + 1e-9) << "row " << r;
    }
  }
}

TEST(RouteRows, AgreesWithNaiveForEveryKindOfRouter) {
  const Matrix bias = RandomMatrix(1, 160, 8, 0.3f), scale = RandomMatrix(1, 160, 9);
  for (const Score score : {Score::kSoftmax, Score::kSigmoid, Score::kSoftmaxOfChosen}) {
    for (const int experts : {1, 2, 7, 8, 128, 160}) {
      for (const int chosen : {1, 2, 8}) {
        if (chosen > experts) continue;
        for (const bool renormalize : {false, true}) {
          for (const bool biased : {false, true}) {
            ExpertRouting routing;
            routing.experts = experts;
            routing.chosen = chosen;
            routing.score = score;
            routing.renormalize = renormalize;
            routing.weight_scale = biased ? 2.5f : 1.0f;
            if (biased) routing.choice_bias = bias.data.data();
            if (!biased && renormalize) routing.expert_scale = scale.data.data();
            for (const int rows : {1, 3, 50}) {
              ExpectRoutedLikeNaive(RandomMatrix(rows, experts, experts + rows, 2.0f), routing);
            }
          }
        }
      }
    }
  }
}

TEST(RouteRows, ChoosesWithinTheBestGroups) {
  const Matrix bias = RandomMatrix(1, 64, 8, 0.3f);
  for (const Score score : {Score::kSoftmax, Score::kSigmoid}) {
    for (const int top : {1, 2}) {
      for (const int groups_chosen : {1, 3, 8}) {
        ExpertRouting routing;
        routing.experts = 64;
        routing.chosen = 6;
        routing.score = score;
        routing.groups = 8;
        routing.groups_chosen = groups_chosen;
        routing.group_score_top = top;
        if (top == 2) routing.choice_bias = bias.data.data();
        ExpectRoutedLikeNaive(RandomMatrix(40, 64, 3, 2.0f), routing);
      }
    }
  }
}

TEST(RouteRows, TiesGoToTheLowerIndex) {
  Matrix logits(2, 6);  // all equal in row 0
  logits.at(1, 4) = logits.at(1, 2) = 1;
  ExpertRouting routing;
  routing.experts = 6;
  routing.chosen = 2;
  ExpertRows routed;
  RouteRows(View(logits), routing, &routed);
  EXPECT_THAT(routed.begin, ElementsAre(0, 1, 2, 3, 3, 4, 4));
  EXPECT_THAT(routed.rows, ElementsAre(0, 0, 1, 1));
}

// A broken checkpoint must not send rows to experts that do not exist.
TEST(RouteRows, NanStillChoosesDistinctExperts) {
  for (const int nans : {1, 5, 8}) {
    Matrix logits = RandomMatrix(4, 8, 1);
    for (int e = 0; e < nans; ++e) logits.at(2, e) = NAN;
    ExpertRouting routing;
    routing.experts = 8;
    routing.chosen = 3;
    routing.groups = 4;
    routing.groups_chosen = 2;
    routing.group_score_top = 2;
    ExpertRows routed;
    RouteRows(View(logits), routing, &routed);
    std::vector<int> times(4, 0);
    for (int e = 0; e < 8; ++e) {
      for (const int32_t row : routed.RowsOf(e)) ++times[row];
    }
    EXPECT_THAT(times, ElementsAre(3, 3, 3, 3)) << nans;
  }
}

TEST(RouteRows, ARowsChoiceDoesNotDependOnTheOthers) {
  const Matrix logits = RandomMatrix(200, 32, 5);
  ExpertRouting routing;
  routing.experts = 32;
  routing.chosen = 4;
  routing.renormalize = true;
  ExpertRows all, one;
  Matrix scratch = logits;
  RouteRows(View(scratch), routing, &all);
  for (const int64_t r : {0, 77, 199}) {
    Matrix row(1, 32);
    std::copy_n(logits.row(r), 32, row.row(0));
    RouteRows(View(row), routing, &one);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(one.chosen_experts[i], all.chosen_experts[r * 4 + i]);
      EXPECT_EQ(one.chosen_weights[i], all.chosen_weights[r * 4 + i]);
    }
  }
}

TEST(AddWeightedRows, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int64_t cols : {1, 3, 17, 1024}) {
      const Matrix before = RandomMatrix(60, cols, 1);
      Matrix x = RandomMatrix(40, cols, 2), y = before;
      const Matrix weights = RandomMatrix(1, 40, 3);
      std::vector<int32_t> rows(40);
      for (int i = 0; i < 40; ++i) rows[i] = i + i / 2;
      AddWeightedRows(View(x), rows, weights.data, View(y));
      Matrix expected = before;
      for (int i = 0; i < 40; ++i) {
        for (int64_t c = 0; c < cols; ++c) expected.at(rows[i], c) += weights.data[i] * x.at(i, c);
      }
      ASSERT_LE(reference::MaxDifference(y, expected), 1e-5);
    }
  });
}

TEST(ClampedGate, WritesEveryFormOfTheNextProduct) {
  for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8}) {
    for (const int64_t rows : {1, 70}) {
      Matrix gate_up = RandomMatrix(rows, 2 * 600, 1, 5.0f);
      Matrix expected(rows, 600);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < 600; ++c) {
          const double g = std::min<double>(gate_up.at(r, c), 7);
          const double u = std::clamp<double>(gate_up.at(r, 600 + c), -7, 7);
          expected.at(r, c) = static_cast<float>((u + 1) * g / (1 + std::exp(-1.702 * g)));
        }
      }
      MatmulInput out(type);
      ClampedGate(View(gate_up), 7.0f, 1.702f, &out);
      const Matrix got = Floats(out);
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = expected.row(r);
        float largest = 0;
        for (int64_t c = 0; c < 600; ++c) largest = std::max(largest, std::abs(row[c]));
        const double step = EffectiveComputeType(type) == ComputeType::kF32    ? 1e-6
                            : EffectiveComputeType(type) == ComputeType::kBf16 ? 0x1p-8
                                                                               : 0.501 / 127;
        for (int64_t c = 0; c < 600; ++c) ASSERT_NEAR(got.at(r, c), row[c], largest * step);
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
