#include "runtime/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The twin: the same stages in doubles, by sorting everything. Returns the probability of each
// token.
std::vector<double> NaiveDistribution(const std::vector<float>& logits,
                                      const SamplingParams& params) {
  const size_t vocab = logits.size();
  std::vector<size_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> weights(vocab);
  for (size_t i = 0; i < vocab; ++i) {
    weights[i] = std::exp((static_cast<double>(logits[i]) - logits[order[0]]) /
                          static_cast<double>(params.temperature));
  }
  size_t kept = vocab;
  if (params.top_k > 0) kept = std::min<size_t>(kept, params.top_k);
  double mass = 0;
  for (size_t i = 0; i < kept; ++i) mass += weights[order[i]];
  double reached = 0;
  for (size_t i = 0; i < kept; ++i) {
    reached += weights[order[i]];
    if (reached >= params.top_p * mass) {
      kept = i + 1;
      break;
    }
  }
  std::vector<double> probabilities(vocab);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    if (weights[order[i]] < params.min_p) break;
    probabilities[order[i]] = weights[order[i]];
    total += weights[order[i]];
  }
  for (double& probability : probabilities) probability /= total;
  return probabilities;
}

std::vector<int> CountDraws(const std::vector<float>& logits, const SamplingParams& params,
                            int draws) {
  Sampler sampler(static_cast<int>(logits.size()));
  std::vector<int> counts(logits.size());
  SampleRequest request;
  request.params = &params;
  for (int i = 0; i < draws; ++i) {
    request.output_position = i;
    ++counts[sampler.Sample(logits, request).token];
  }
  return counts;
}

// Pearson's statistic against the twin, classes below 8 expected draws pooled. A token that the
// twin excludes must never be drawn.
void ExpectDistribution(const std::vector<float>& logits, const SamplingParams& params, int draws) {
  const std::vector<double> expected = NaiveDistribution(logits, params);
  const std::vector<int> counts = CountDraws(logits, params, draws);
  double statistic = 0, pooled_expected = 0, pooled_count = 0;
  int classes = 0;
  const auto add = [&](double count, double wanted) {
    statistic += (count - wanted) * (count - wanted) / wanted;
    ++classes;
  };
  for (size_t i = 0; i < logits.size(); ++i) {
    const double wanted = expected[i] * draws;
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " is outside of the cuts";
    } else if (wanted < 8) {
      pooled_expected += wanted;
      pooled_count += counts[i];
    } else {
      add(counts[i], wanted);
    }
  }
  if (pooled_expected >= 8) add(pooled_count, pooled_expected);
  if (classes < 2) return;
  // Mean n, standard deviation sqrt(2n), a right tail longer than a normal one: six of them and a
  // constant.
  const double freedom = classes - 1;
  EXPECT_LT(statistic, freedom + 6 * std::sqrt(2 * freedom) + 10);
}

std::vector<float> RandomLogits(size_t vocab, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(1.0f, deviation);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

SamplingParams Params(float temperature, int32_t top_k = 0, float top_p = 1.0f,
                      float min_p = 0.0f) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  params.seed = 42;
  return params;
}

TokenId SampleOnce(const std::vector<float>& logits, const SamplingParams& params,
                   absl::Span<const TokenId> banned = {}, const TokenCounts* counts = nullptr,
                   int32_t position = 0) {
  Sampler sampler(static_cast<int>(logits.size()));
  SampleRequest request;
  request.params = &params;
  request.counts = counts;
  request.banned = banned;
  request.output_position = position;
  const SampleResult result = sampler.Sample(logits, request);
  EXPECT_TRUE(result.valid);
  return result.token;
}

std::set<TokenId> DrawnTokens(const std::vector<float>& logits, const SamplingParams& params,
                              int draws = 4000) {
  const std::vector<int> counts = CountDraws(logits, params, draws);
  std::set<TokenId> drawn;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) drawn.insert(static_cast<TokenId>(i));
  }
  return drawn;
}

TEST(SamplerDistributionTest, PlainTemperatures) {
  for (const float temperature : {0.2f, 0.7f, 1.0f, 3.0f, 100.0f}) {
    ExpectDistribution(RandomLogits(40, 2.0f, 1), Params(temperature), 40000);
  }
  ExpectDistribution(RandomLogits(1500, 2.0f, 2), Params(0.8f), 20000);  // several blocks
}

TEST(SamplerDistributionTest, EachCutAndTheirCombinations) {
  for (const size_t vocab : {30, 257, 1200}) {
    const std::vector<float> logits = RandomLogits(vocab, 2.0f, static_cast<uint32_t>(vocab));
    for (const int32_t top_k : {0, 1, 7, 20, 100}) {
      for (const float top_p : {1.0f, 0.9f, 0.5f}) {
        for (const float min_p : {0.0f, 0.1f}) {
          SCOPED_TRACE(testing::Message() << "vocab " << vocab << " top_k " << top_k << " top_p "
                                          << top_p << " min_p " << min_p);
          ExpectDistribution(logits, Params(0.7f, top_k, top_p, min_p), 4000);
        }
      }
    }
  }
}

TEST(SamplerDistributionTest, FlatRowsKeepTheirTail) {
  ExpectDistribution(RandomLogits(2000, 0.05f, 9), Params(1.0f, 0, 0.9f), 20000);
  ExpectDistribution(RandomLogits(2000, 0.05f, 9), Params(1.0f, 500), 20000);
}

// The set that survives, over many random rows. The twin's cuts are loosened by what rounding may
// move.
TEST(SamplerDistributionTest, NoDrawLeavesTheTwinsSet) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    const size_t vocab = 1 + random() % 1500;
    std::vector<float> logits = RandomLogits(vocab, 0.1f + 0.01f * (random() % 500), round);
    if (round % 3 == 0) {
      for (float& logit : logits) logit = std::round(logit * 2) / 2;  // ties
    }
    const SamplingParams params =
        Params(0.3f + 0.1f * (random() % 20), random() % 2 ? random() % 60 : 0,
               random() % 2 ? 0.05f * (1 + random() % 19) : 1.0f,
               random() % 2 ? 0.01f * (random() % 100) : 0.0f);
    SamplingParams loosened = params;
    loosened.top_p = std::min(1.0f, params.top_p * 1.00001f);
    loosened.min_p = params.min_p * 0.9999f;
    const std::vector<double> expected = NaiveDistribution(logits, loosened);
    const std::vector<int> counts = CountDraws(logits, params, 200);
    for (size_t i = 0; i < vocab; ++i) {
      if (counts[i] == 0) continue;
      EXPECT_GT(expected[i], 0) << "round " << round << " token " << i;
    }
  }
}

TEST(SamplerTest, GreedyTakesTheLargestAndOfEqualsTheLowestId) {
  EXPECT_EQ(SampleOnce({1, 3, 2}, Params(0)), 1);
  EXPECT_EQ(SampleOnce({1, 3, 3, 3}, Params(0)), 1);
  EXPECT_EQ(SampleOnce({-0.0f, 0.0f}, Params(0)), 0);
  EXPECT_EQ(SampleOnce({-5}, Params(0)), 0);
  for (const size_t vocab : {255, 256, 257, 1000, 33001}) {
    const std::vector<float> logits = RandomLogits(vocab, 3.0f, static_cast<uint32_t>(vocab));
    const TokenId expected =
        static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    EXPECT_EQ(SampleOnce(logits, Params(0)), expected);
    EXPECT_EQ(SampleOnce(logits, Params(1e-7f)), expected);
    EXPECT_EQ(SampleOnce(logits, Params(2.0f, 1)), expected);
    EXPECT_EQ(SampleOnce(logits, Params(2.0f, 0, 1e-6f)), expected);
    EXPECT_EQ(SampleOnce(logits, Params(2.0f, 0, 1.0f, 1.0f)), expected);
  }
}

TEST(SamplerTest, TopKOfTiesKeepsTheLowestIds) {
  const std::vector<float> logits = {1, 2, 2, 2, 0};
  EXPECT_EQ(DrawnTokens(logits, Params(1.0f, 2)), (std::set<TokenId>{1, 2}));
  const std::vector<float> equal(1000, 0.5f);
  EXPECT_EQ(DrawnTokens(equal, Params(1.0f, 3)), (std::set<TokenId>{0, 1, 2}));
}

TEST(SamplerTest, TopKOfTheVocabularyOrMoreCutsNothing) {
  const std::vector<float> logits = {0, 0.1f, 0.2f};
  for (const int32_t top_k : {3, 4, 1 << 30}) {
    EXPECT_EQ(CountDraws(logits, Params(1.0f, top_k), 500), CountDraws(logits, Params(1.0f), 500));
  }
}

TEST(SamplerTest, TopPIncludesTheTokenThatReachesIt) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(4.0f), std::log(2.0f), 0, 0};
  EXPECT_EQ(DrawnTokens(logits, Params(1.0f, 0, 0.45f)), (std::set<TokenId>{0}));
  EXPECT_EQ(DrawnTokens(logits, Params(1.0f, 0, 0.55f)), (std::set<TokenId>{0, 1}));
  EXPECT_EQ(DrawnTokens(logits, Params(1.0f, 0, 0.8f)), (std::set<TokenId>{0, 1, 2}));
  EXPECT_EQ(DrawnTokens(logits, Params(1.0f, 0, 0.95f)), (std::set<TokenId>{0, 1, 2, 3}));
  // After top_k 2 the two left weigh 2/3 and 1/3: 0.6 is reached by the first alone.
  EXPECT_EQ(DrawnTokens(logits, Params(1.0f, 2, 0.6f)), (std::set<TokenId>{0}));
}

TEST(SamplerTest, TopPCountsMassAfterTemperature) {
  const std::vector<float> logits = {std::log(4.0f), std::log(2.0f), 0, 0};
  // Squared and renormalised: 16/22, 4/22, 1/22, 1/22.
  EXPECT_EQ(DrawnTokens(logits, Params(0.5f, 0, 0.7f)), (std::set<TokenId>{0}));
}

TEST(SamplerTest, MinPIsRelativeToTheLikeliest) {
  const std::vector<float> logits = {0, std::log(0.5f), std::log(0.3f), std::log(0.1f)};
  EXPECT_EQ(DrawnTokens(logits, Params(1.0f, 0, 1.0f, 0.2f)), (std::set<TokenId>{0, 1, 2}));
  EXPECT_EQ(DrawnTokens(logits, Params(1.0f, 0, 1.0f, 0.4f)), (std::set<TokenId>{0, 1}));
  EXPECT_EQ(DrawnTokens({3, 3, 1}, Params(1.0f, 0, 1.0f, 1.0f)), (std::set<TokenId>{0, 1}));
}

TEST(SamplerTest, TokensNearTheEndOfFloatRange) {
  EXPECT_EQ(SampleOnce({-kLargest, kLargest}, Params(0.7f)), 1);
  EXPECT_EQ(SampleOnce({-kLargest, kLargest}, Params(0.7f, 0, 0.9f)), 1);
  EXPECT_EQ(SampleOnce({-kLargest, -kLargest}, Params(0)), 0);
  EXPECT_EQ(DrawnTokens({-kLargest, -kLargest}, Params(1.0f, 0, 0.9f)).size(), 2u);
  EXPECT_EQ(SampleOnce({1e30f, -1e30f}, Params(100.0f, 1, 0.5f, 0.5f)), 0);
}

TEST(SamplerTest, NanIsNeverChosenAndInfinityIsTheLargest) {
  for (const SamplingParams& params :
       {Params(0), Params(1.0f), Params(1.0f, 2), Params(1.0f, 0, 0.9f),
        Params(1.0f, 0, 1.0f, 0.1f), Params(1.0f, 2, 0.9f, 0.1f)}) {
    EXPECT_EQ(SampleOnce({kNan, -kInfinity, 1.0f, kNan}, params), 2);
    EXPECT_EQ(SampleOnce({kNan, 5.0f, kInfinity, 1.0f}, params), 2);
  }
  EXPECT_EQ(DrawnTokens({kInfinity, 5.0f, kInfinity}, Params(1.0f)), (std::set<TokenId>{0, 2}));
  EXPECT_EQ(DrawnTokens({kInfinity, 5.0f, kInfinity}, Params(1.0f, 0, 0.99f)),
            (std::set<TokenId>{0, 2}));
}

TEST(SamplerTest, ARowWithoutAnyNumberIsReported) {
  const std::vector<float> logits(600, kNan);
  const std::vector<float> masked(600, -kInfinity);
  Sampler sampler(600);
  for (const SamplingParams& params :
       {Params(0), Params(1.0f), Params(1.0f, 2), Params(1.0f, 0, 0.9f)}) {
    for (const auto& row : {logits, masked}) {
      SampleRequest request;
      request.params = &params;
      request.num_logprobs = 2;
      const SampleResult result = sampler.Sample(row, request);
      EXPECT_FALSE(result.valid);
      EXPECT_EQ(result.token, 0);
      EXPECT_EQ(result.logprob->logprob, -kInfinity);
    }
  }
}

TEST(SamplerTest, VocabularyOfOne) {
  for (const SamplingParams& params :
       {Params(0), Params(1.0f), Params(1.0f, 5), Params(1.0f, 0, 0.1f), Params(1.0f, 0, 1, 1)}) {
    EXPECT_EQ(SampleOnce({-3.0f}, params), 0);
  }
}

TEST(SamplerTest, ABiasForcesOrForbids) {
  SamplingParams params = Params(1.0f);
  params.logit_bias = {{3, 100.0f}};
  EXPECT_EQ(DrawnTokens({1, 2, 3, 0}, params), (std::set<TokenId>{3}));
  params.logit_bias = {{2, -100.0f}};
  EXPECT_EQ(DrawnTokens({1, 2, 3, 0}, params), (std::set<TokenId>{0, 1, 3}));
}

TEST(SamplerTest, BannedTokensAreNeverChosenAndTheRowStaysAsItWas) {
  const std::vector<float> logits = {1, 9, 3, 2};
  const std::vector<float> before = logits;
  const std::vector<TokenId> banned = {1};
  EXPECT_EQ(SampleOnce(logits, Params(0), banned), 2);
  for (int position = 0; position < 200; ++position) {
    EXPECT_NE(SampleOnce(logits, Params(50.0f), banned, nullptr, position), 1);
  }
  EXPECT_EQ(logits, before);
}

TEST(SamplerTest, PenaltiesActBeforeGreedy) {
  SamplingParams params = Params(0);
  params.repetition_penalty = 2.0f;
  TokenCounts counts(std::vector<TokenId>{1});
  EXPECT_EQ(SampleOnce({2, 3, 1}, params, {}, &counts), 0);
}

TEST(SamplerTest, LogprobsAreThoseOfTheRawRow) {
  const std::vector<float> logits = {1, 9, 3, 2};
  SamplingParams params = Params(0.5f, 2);
  params.logit_bias = {{3, 100.0f}};
  Sampler sampler(4);
  SampleRequest request;
  request.params = &params;
  EXPECT_FALSE(sampler.Sample(logits, request).logprob.has_value());
  request.num_logprobs = 0;
  EXPECT_TRUE(sampler.Sample(logits, request).logprob->alternatives.empty());
  request.num_logprobs = 2;
  const SampleResult result = sampler.Sample(logits, request);
  EXPECT_EQ(result.token, 3);
  const TokenLogprob expected = LogprobOf(logits, 3, 2);
  EXPECT_EQ(result.logprob->token, 3);
  EXPECT_EQ(result.logprob->logprob, expected.logprob);
  EXPECT_EQ(result.logprob->alternatives, expected.alternatives);
  EXPECT_EQ(expected.alternatives[0].first, 1);
}

// Another sampler, other calls in between, another thread's turn: only seed, index and position
// count.
TEST(SamplerTest, TheTokenDependsOnSeedIndexAndPositionAlone) {
  const std::vector<float> logits = RandomLogits(1000, 1.5f, 11);
  const std::vector<float> other = RandomLogits(1000, 1.5f, 12);
  for (const SamplingParams& params :
       {Params(1.0f), Params(1.0f, 40), Params(1.0f, 0, 0.9f), Params(1.0f, 40, 0.9f, 0.01f)}) {
    Sampler first(1000), second(1000);
    std::map<std::pair<int, int>, TokenId> tokens;
    SampleRequest request;
    request.params = &params;
    for (request.completion_index = 0; request.completion_index < 4; ++request.completion_index) {
      for (request.output_position = 0; request.output_position < 50; ++request.output_position) {
        tokens[{request.completion_index, request.output_position}] =
            first.Sample(logits, request).token;
      }
    }
    std::set<TokenId> distinct;
    for (const auto& [key, token] : tokens) {
      request.completion_index = 9;
      second.Sample(other, request);
      std::tie(request.completion_index, request.output_position) = key;
      EXPECT_EQ(second.Sample(logits, request).token, token);
      distinct.insert(token);
    }
    EXPECT_GT(distinct.size(), 20u);
  }
}

TEST(SamplerTest, SeedsAndCompletionsDrawApart) {
  const std::vector<float> logits = RandomLogits(1000, 1.5f, 15);
  const auto draw = [&](uint64_t seed, int32_t completion_index) {
    SamplingParams params = Params(1.0f);
    params.seed = seed;
    Sampler sampler(1000);
    SampleRequest request;
    request.params = &params;
    request.completion_index = completion_index;
    std::vector<TokenId> tokens;
    for (request.output_position = 0; request.output_position < 100; ++request.output_position) {
      tokens.push_back(sampler.Sample(logits, request).token);
    }
    return tokens;
  };
  const std::vector<std::vector<TokenId>> runs = {draw(1, 0), draw(1, 1), draw(2, 0), draw(2, 1)};
  for (size_t a = 0; a < runs.size(); ++a) {
    for (size_t b = 0; b < a; ++b) {
      int equal = 0;
      for (int i = 0; i < 100; ++i) equal += runs[a][i] == runs[b][i];
      EXPECT_LT(equal, 20) << a << " and " << b;
    }
  }
}

// A batched step may compute the same logits with another rounding: almost every draw must stay the
// same.
TEST(SamplerTest, RoundingErrorsOfLogitsRarelyChangeTheDraw) {
  std::vector<float> logits = RandomLogits(2000, 2.0f, 13);
  std::vector<float> moved = logits;
  std::mt19937 random(14);
  for (float& logit : moved) logit += 1e-5f * (static_cast<float>(random() % 2001) / 1000 - 1);
  for (const SamplingParams& params : {Params(1.0f), Params(1.0f, 50), Params(1.0f, 0, 0.9f)}) {
    Sampler sampler(2000);
    SampleRequest request;
    request.params = &params;
    int changed = 0;
    for (request.output_position = 0; request.output_position < 2000; ++request.output_position) {
      changed += sampler.Sample(logits, request).token != sampler.Sample(moved, request).token;
    }
    EXPECT_LT(changed, 20);
  }
}

}  // namespace
}  // namespace kvasir
