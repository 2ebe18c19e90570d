// kvasir score: how well a served model predicts a text file.
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands/command.h"
#include "client/json_output.h"
#include "client/text_scorer.h"

namespace kvasir {

int RunScore(const Arguments& arguments) {
  CommandLine line("score", "[flags] --file FILE",
                   "Mean negative log-likelihood (natural log) and perplexity per token of a text "
                   "under a model. The text\n"
                   "is cut into windows that do not overlap; positions restart in each.");
  ScoreOptions options;
  std::optional<std::string> file;
  std::optional<int32_t> window, max_tokens, concurrency;
  std::optional<bool> progress;
  line.flags().Add("model", "M", "model to score with; may be absent when the daemon serves one",
                   &options.model);
  line.flags().Add("file", "FILE", "the text; - = standard input", &file);
  line.flags().Add("window", "W", "tokens per window, at most the model's context (default 512)",
                   &window);
  line.flags().Add("max_tokens", "N", "stop after N predicted tokens (default: the whole text)",
                   &max_tokens);
  line.flags().Add("concurrency", "N", "windows under way at once (default 4)", &concurrency);
  line.flags().Add("progress", "=false hides the progress bar on standard error", &progress);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (!file.has_value() || !line.positional().empty())
    return line.UsageError("give the text with --file");
  options.window_tokens = window.value_or(options.window_tokens);
  options.max_tokens = max_tokens.value_or(0);
  options.concurrency = concurrency.value_or(options.concurrency);
  if (options.window_tokens < 1) {
    return line.UsageError(
        absl::StrCat("--window is ", options.window_tokens, " but must be at least 1"));
  }

  const auto text = ReadTextFile(*file);
  if (!text.ok()) return line.Fail(text.status());
  const auto client = line.MakeClient();
  const auto score = ScoreText(client.get(), line.MakeCallOptions(), *text, options, "score",
                               progress.value_or(true));
  if (!score.ok()) return line.Fail(score.status());
  const ScoreResult& result = score->result;

  if (line.json()) {
    std::cout << DumpJson({{"tokens", result.tokens},
                           {"nll_mean", result.nll_mean},
                           {"perplexity", result.perplexity},
                           {"window", options.window_tokens},
                           {"model", score->model},
                           {"seconds", score->seconds},
                           {"tokens_per_second", result.tokens / score->seconds}})
              << std::endl;
  } else {
    std::cout << absl::StrFormat(
        "%s: %d tokens, window %d: nll %.6f, perplexity %.4f (%.1f s, %.0f tokens/s)\n",
        score->model, result.tokens, options.window_tokens, result.nll_mean, result.perplexity,
        score->seconds, result.tokens / score->seconds);
  }
  return kExitOk;
}

}  // namespace kvasir
