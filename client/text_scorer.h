// How well a served model predicts a text: `kvasir score`, and `kvasir convert --score` before and
// after. Stateless.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/generation_client.h"
#include "client/window_scorer.h"

namespace kvasir {

struct TextScore {
  std::string model;  // its name on the server
  ScoreResult result;
  double seconds = 0;  // without tokenizing
};

// Tokenizes the text on the server and scores it in windows (options.model may be empty when the
// server has one model). `show_progress`: a bar of that title on standard error. Blocks. Errors:
// the calls', and InvalidArgument for windows beyond the model's context.
absl::StatusOr<TextScore> ScoreText(GenerationClient* client, const CallOptions& call,
                                    const std::string& text, ScoreOptions options,
                                    const std::string& title, bool show_progress);

}  // namespace kvasir
