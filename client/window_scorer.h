// Mean negative log-likelihood of a token series, in windows that do not overlap: the measure of
// golden.json.
//
// With S the tokens (S[0] the beginning-of-sequence token), window w of length T has the inputs
// S[w*T .. w*T+T) and the targets one further; positions restart in every window. One request per
// window gives all T log-probabilities: those of targets 1 .. T-1 are the prompt's, the last target
// is forced to be the one generated token by a bias, and reported log-probabilities are those of
// the model's own distribution. So a window may be as long as the model's context.
//
// Stateless; borrows the generate function, which it calls from several threads at once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/generation_client.h"

namespace kvasir {

struct ScoreOptions {
  std::string model;
  int32_t window_tokens = 512;
  // Most predicted tokens; 0 = all of the text.
  int64_t max_tokens = 0;
  // Windows under way at once.
  int32_t concurrency = 4;
};

struct ScoreResult {
  int64_t tokens = 0;   // predicted
  double nll_mean = 0;  // natural log
  double perplexity = 0;
};

using GenerateFunction = std::function<absl::StatusOr<GenerateResult>(const v1::GenerateRequest&)>;
// Predicted tokens so far and their mean negative log-likelihood; called under a lock.
using ScoreProgress = std::function<void(int64_t tokens, double nll_mean)>;

// How many tokens Score will predict.
int64_t ScoredTokens(size_t series_tokens, const ScoreOptions& options);

// Blocks. The first failing window's error ends it. InvalidArgument: less than two tokens, or a
// window below 1.
absl::StatusOr<ScoreResult> Score(const std::vector<int32_t>& series, const ScoreOptions& options,
                                  const GenerateFunction& generate,
                                  const ScoreProgress& progress = nullptr);

}  // namespace kvasir
