#include "client/window_scorer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace kvasir {
namespace {

// The largest bias that the API takes: beats every real logit gap.
constexpr float kForcingBias = 100.0f;

// Prompt = inputs, with every cut and penalty off and the last target forced. [num_inputs] inputs.
v1::GenerateRequest WindowRequest(const std::string& model, const int32_t* inputs,
                                  int64_t num_inputs, int32_t last_target) {
  v1::GenerateRequest request;
  request.set_model(model);
  request.mutable_token_ids()->mutable_ids()->Add(inputs, inputs + num_inputs);
  v1::Sampling* sampling = request.mutable_sampling();
  sampling->set_temperature(0);
  sampling->set_top_p(1);
  sampling->set_top_k(0);
  sampling->set_min_p(0);
  sampling->set_repetition_penalty(1);
  sampling->set_presence_penalty(0);
  sampling->set_frequency_penalty(0);
  (*sampling->mutable_logit_bias())[last_target] = kForcingBias;
  request.mutable_stopping()->set_max_tokens(1);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_output()->set_logprobs(0);
  if (num_inputs > 1) request.mutable_output()->set_prompt_logprobs(0);
  return request;
}

// Sum of -log p over the window's targets. Internal when the reply does not hold what was asked
// for.
absl::StatusOr<double> WindowNll(const GenerateResult& result, const int32_t* targets,
                                 int64_t num_targets) {
  std::vector<v1::TokenLogprob> tokens = result.prompt_logprobs;
  if (!result.outputs.empty()) {
    tokens.insert(tokens.end(), result.outputs[0].logprobs.begin(),
                  result.outputs[0].logprobs.end());
  }
  if (static_cast<int64_t>(tokens.size()) != num_targets) {
    return absl::InternalError(absl::StrCat("a window of ", num_targets, " targets came back with ",
                                            tokens.size(), " log-probabilities"));
  }
  double nll = 0;
  for (int64_t i = 0; i < num_targets; ++i) {
    if (tokens[i].token_id() != targets[i]) {
      return absl::InternalError(absl::StrCat("log-probability ", i,
                                              " of a window belongs to token ",
                                              tokens[i].token_id(), " instead of ", targets[i]));
    }
    nll -= tokens[i].logprob();
  }
  return nll;
}

}  // namespace

int64_t ScoredTokens(size_t series_tokens, const ScoreOptions& options) {
  const int64_t all = std::max<int64_t>(static_cast<int64_t>(series_tokens) - 1, 0);
  return options.max_tokens > 0 ? std::min(all, options.max_tokens) : all;
}

absl::StatusOr<ScoreResult> Score(const std::vector<int32_t>& series, const ScoreOptions& options,
                                  const GenerateFunction& generate, const ScoreProgress& progress) {
  const int64_t total = ScoredTokens(series.size(), options);
  if (total < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", series.size(),
                     " tokens but scoring needs at least 2; give a longer text"));
  }
  if (options.window_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("window is ", options.window_tokens, " tokens but must be at least 1"));
  }
  const int64_t window = options.window_tokens;
  const int64_t num_windows = (total + window - 1) / window;

  std::atomic<int64_t> next_window{0};
  absl::Mutex mutex;
  absl::Status error;                                // under mutex
  std::vector<double> window_nll(num_windows, 0.0);  // under mutex
  int64_t done = 0;                                  // under mutex
  double done_nll = 0;                               // under mutex

  const auto work = [&] {
    for (int64_t w = next_window++; w < num_windows; w = next_window++) {
      const int32_t* inputs = series.data() + w * window;
      const int64_t count = std::min(window, total - w * window);
      const auto reply = generate(WindowRequest(options.model, inputs, count, inputs[count]));
      const absl::StatusOr<double> nll = reply.ok() ? WindowNll(*reply, inputs + 1, count)
                                                    : absl::StatusOr<double>(reply.status());

      absl::MutexLock lock(&mutex);
      if (!nll.ok()) {
        if (error.ok()) error = nll.status();
        next_window = num_windows;
        return;
      }
      window_nll[w] = *nll;
      done += count;
      done_nll += *nll;
      if (progress) progress(done, done_nll / done);
    }
  };
  std::vector<std::thread> threads;
  const int64_t num_threads = std::clamp<int64_t>(options.concurrency, 1, num_windows);
  for (int64_t i = 0; i < num_threads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (!error.ok()) return error;

  // Summed in the windows' order, so that the result does not depend on who finished first.
  ScoreResult result;
  result.tokens = total;
  result.nll_mean = std::accumulate(window_nll.begin(), window_nll.end(), 0.0) / total;
  result.perplexity = std::exp(result.nll_mean);
  return result;
}

}  // namespace kvasir
