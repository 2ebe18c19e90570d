// The scorer against a model whose log-probabilities are a formula of (token before, token,
// position in the window).
#include "client/window_scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>

namespace kvasir {
namespace {

using ::testing::HasSubstr;

float FakeLogprob(int32_t before, int32_t token, int64_t position) {
  return -0.1f * static_cast<float>((before * 7 + token * 3 + position) % 50 + 1);
}

// Answers as the server does: prompt log-probabilities from position 1, and the token that the bias
// forces.
absl::StatusOr<GenerateResult> FakeGenerate(const v1::GenerateRequest& request) {
  const auto& ids = request.token_ids().ids();
  EXPECT_EQ(request.stopping().max_tokens(), 1);
  EXPECT_EQ(request.sampling().temperature(), 0);
  EXPECT_EQ(request.sampling().repetition_penalty(), 1);
  EXPECT_EQ(request.sampling().logit_bias().size(), 1u);
  GenerateResult result;
  if (request.output().has_prompt_logprobs()) {
    for (int i = 1; i < ids.size(); ++i) {
      v1::TokenLogprob token;
      token.set_token_id(ids[i]);
      token.set_logprob(FakeLogprob(ids[i - 1], ids[i], i));
      result.prompt_logprobs.push_back(token);
    }
  }
  const int32_t forced = request.sampling().logit_bias().begin()->first;
  result.outputs.resize(1);
  v1::TokenLogprob token;
  token.set_token_id(forced);
  token.set_logprob(FakeLogprob(ids[ids.size() - 1], forced, ids.size()));
  result.outputs[0].logprobs.push_back(token);
  return result;
}

// The definition, written down: windows of `window` inputs, targets one further, positions restart.
double NaiveNll(const std::vector<int32_t>& series, int64_t window, int64_t total) {
  double nll = 0;
  for (int64_t i = 0; i < total; ++i) {
    nll -= FakeLogprob(series[i], series[i + 1], i % window + 1);
  }
  return nll / total;
}

std::vector<int32_t> RandomSeries(size_t tokens, int seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> series(tokens);
  for (int32_t& id : series) id = random() % 4096;
  return series;
}

TEST(WindowScorer, EqualsTheDefinitionForAnyWindowAndLength) {
  const std::vector<int32_t> series = RandomSeries(301, 1);
  for (const int32_t window : {1, 2, 7, 100, 299, 300, 301, 1000}) {
    for (const int64_t max_tokens : {0, 1, 2, 99, 100, 101, 300, 5000}) {
      ScoreOptions options;
      options.window_tokens = window;
      options.max_tokens = max_tokens;
      options.concurrency = 3;
      const auto result = Score(series, options, FakeGenerate);
      ASSERT_TRUE(result.ok()) << result.status();
      const int64_t total = max_tokens == 0 ? 300 : std::min<int64_t>(max_tokens, 300);
      EXPECT_EQ(result->tokens, total);
      EXPECT_EQ(ScoredTokens(series.size(), options), total);
      EXPECT_NEAR(result->nll_mean, NaiveNll(series, window, total), 1e-9)
          << window << " " << max_tokens;
      EXPECT_NEAR(result->perplexity, std::exp(result->nll_mean), 1e-9);
    }
  }
}

TEST(WindowScorer, NoRequestIsLongerThanTheWindow) {
  ScoreOptions options;
  options.window_tokens = 64;
  std::atomic<int> longest{0};
  const auto result =
      Score(RandomSeries(1000, 2), options, [&](const v1::GenerateRequest& request) {
        int seen = longest;
        while (request.token_ids().ids_size() > seen &&
               !longest.compare_exchange_weak(seen, request.token_ids().ids_size())) {
        }
        return FakeGenerate(request);
      });
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(longest, 64);
}

TEST(WindowScorer, ProgressEndsAtTheWhole) {
  ScoreOptions options;
  options.window_tokens = 10;
  options.concurrency = 4;
  int64_t last_tokens = 0;
  double last_mean = 0;
  const auto result =
      Score(RandomSeries(105, 3), options, FakeGenerate, [&](int64_t tokens, double mean) {
        EXPECT_GT(tokens, last_tokens);
        last_tokens = tokens;
        last_mean = mean;
      });
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(last_tokens, 104);
  EXPECT_NEAR(last_mean, result->nll_mean, 1e-9);
}

TEST(WindowScorer, TheFirstErrorEndsIt) {
  ScoreOptions options;
  options.window_tokens = 10;
  options.concurrency = 1;
  int calls = 0;
  const auto result =
      Score(RandomSeries(1001, 4), options,
            [&](const v1::GenerateRequest& request) -> absl::StatusOr<GenerateResult> {
              if (++calls == 3) return absl::UnavailableError("draining");
              return FakeGenerate(request);
            });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls, 3);
}

TEST(WindowScorer, AReplyForOtherTokensIsAnError) {
  ScoreOptions options;
  const auto missing = Score(RandomSeries(100, 5), options, [](const v1::GenerateRequest& request) {
    auto result = FakeGenerate(request);
    result->prompt_logprobs.pop_back();
    return result;
  });
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("98 log-probabilities"));

  const auto other_token =
      Score(RandomSeries(100, 5), options, [](const v1::GenerateRequest& request) {
        auto result = FakeGenerate(request);
        result->outputs[0].logprobs[0].set_token_id(-1);
        return result;
      });
  EXPECT_EQ(other_token.status().code(), absl::StatusCode::kInternal);
}

TEST(WindowScorer, RefusesWhatCannotBeScored) {
  ScoreOptions options;
  EXPECT_EQ(Score({5}, options, FakeGenerate).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Score({}, options, FakeGenerate).status().code(), absl::StatusCode::kInvalidArgument);
  options.window_tokens = 0;
  EXPECT_EQ(Score({1, 2, 3}, options, FakeGenerate).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvasir
