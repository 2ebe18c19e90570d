#include "client/text_scorer.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/progress_bar.h"

namespace kvasir {

absl::StatusOr<TextScore> ScoreText(GenerationClient* client, const CallOptions& call,
                                    const std::string& text, ScoreOptions options,
                                    const std::string& title, bool show_progress) {
  const auto model = client->GetModel(options.model, call);
  if (!model.ok()) return model.status();
  if (options.window_tokens > model->context_tokens()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--window is ", options.window_tokens, " but the context of ", model->name(),
                     " is ", model->context_tokens(), " tokens; use a smaller window"));
  }
  options.model = model->name();

  v1::TokenizeRequest tokenize;
  tokenize.set_model(options.model);
  tokenize.set_text(text);
  tokenize.set_parse_special_tokens(true);
  const auto series = client->Tokenize(tokenize, call);
  if (!series.ok()) return series.status();

  const absl::Time start = absl::Now();
  absl::StatusOr<ScoreResult> result;
  {
    ProgressBar bar(title, ScoredTokens(series->size(), options), show_progress);
    result = Score(
        *series, options,
        [&](const v1::GenerateRequest& request) { return client->Generate(request, call); },
        [&](int64_t tokens, double nll_mean) {
          bar.Set(tokens, absl::StrFormat("nll %.4f", nll_mean));
        });
  }
  if (!result.ok()) return result.status();
  return TextScore{options.model, *result, absl::ToDoubleSeconds(absl::Now() - start)};
}

}  // namespace kvasir
