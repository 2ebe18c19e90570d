// The part of tokenizer_config.json that changes what a tokenizer does.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

struct TokenizerConfig {
  std::optional<std::string> bos_token;  // names, as in the vocabulary
  std::optional<std::string> eos_token;
  bool add_bos_token = false;  // these two count only when tokenizer.json has no template
  bool add_eos_token = false;
};

// `text` may be empty: nothing is set. Errors: InvalidArgument naming the member.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view text);

}  // namespace kvasir
