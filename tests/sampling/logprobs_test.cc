#include "runtime/sampling/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(LogprobOfTest, MatchesDoublesAndASort) {
  std::mt19937 random(3);
  for (const size_t vocab : {1, 2, 19, 256, 257, 5000, 33000}) {
    for (const bool ties : {false, true}) {
      std::normal_distribution<float> normal(-2.0f, 5.0f);
      std::vector<float> logits(vocab);
      for (float& logit : logits) logit = ties ? std::round(normal(random)) : normal(random);
      const double max = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (const float logit : logits) sum += std::exp(logit - max);
      std::vector<TokenId> order(vocab);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });

      for (const int alternatives : {0, 1, 5, 20}) {
        const TokenId target = static_cast<TokenId>(random() % vocab);
        const TokenLogprob result = LogprobOf(logits, target, alternatives);
        EXPECT_EQ(result.token, target);
        const auto expected = [&](TokenId token) { return logits[token] - max - std::log(sum); };
        EXPECT_NEAR(result.logprob, expected(target), 1e-5);
        ASSERT_EQ(result.alternatives.size(), std::min<size_t>(alternatives, vocab));
        for (size_t i = 0; i < result.alternatives.size(); ++i) {
          EXPECT_EQ(result.alternatives[i].first, order[i]) << "vocab " << vocab << " rank " << i;
          EXPECT_NEAR(result.alternatives[i].second, expected(order[i]), 1e-5);
        }
      }
    }
  }
}

TEST(LogprobOfTest, TheProbabilitiesOfARowAddUpToOne) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(700);
  for (float& logit : logits) logit = normal(random);
  double sum = 0;
  for (TokenId token = 0; token < 700; ++token) {
    sum += std::exp(static_cast<double>(LogprobOf(logits, token, 0).logprob));
  }
  EXPECT_NEAR(sum, 1.0, 1e-5);
}

TEST(LogprobOfTest, OddValues) {
  const std::vector<float> logits = {kNan, 1.0f, -kInfinity, 1.0f};
  EXPECT_EQ(LogprobOf(logits, 0, 0).logprob, -kInfinity);
  EXPECT_EQ(LogprobOf(logits, 2, 0).logprob, -kInfinity);
  const TokenLogprob result = LogprobOf(logits, 3, 4);
  EXPECT_NEAR(result.logprob, std::log(0.5), 1e-6);
  ASSERT_EQ(result.alternatives.size(), 2u);  // tokens without probability are no alternatives
  EXPECT_EQ(result.alternatives[0].first, 1);
  EXPECT_EQ(result.alternatives[1].first, 3);

  const std::vector<float> infinite = {0.0f, kInfinity, -kLargest};
  EXPECT_EQ(LogprobOf(infinite, 1, 0).logprob, 0.0f);
  EXPECT_LT(LogprobOf(infinite, 0, 0).logprob, -1e30f);
  EXPECT_EQ(LogprobOf(infinite, 0, 3).alternatives[0].first, 1);

  const std::vector<float> nothing = {kNan, -kInfinity};
  EXPECT_EQ(LogprobOf(nothing, 1, 2).logprob, -kInfinity);
  EXPECT_TRUE(LogprobOf(nothing, 1, 2).alternatives.empty());
}

// Rows on which the bound from block maxima does not help.
TEST(LogprobOfTest, AlternativesOfRisingFallingAndFlatRows) {
  constexpr int kVocab = 20000;
  std::vector<float> rising(kVocab), falling(kVocab);
  const std::vector<float> flat(kVocab, 2.0f);
  for (int i = 0; i < kVocab; ++i) {
    rising[i] = 0.001f * i;
    falling[i] = -0.001f * i;
  }
  for (int rank = 0; rank < 20; ++rank) {
    EXPECT_EQ(LogprobOf(rising, 0, 20).alternatives[rank].first, kVocab - 1 - rank);
    EXPECT_EQ(LogprobOf(falling, 0, 20).alternatives[rank].first, rank);
    EXPECT_EQ(LogprobOf(flat, 0, 20).alternatives[rank].first, rank);
  }
}

}  // namespace
}  // namespace kvasir
