// PreTokenizer: cuts normalised text into the pieces within which the model may merge.
//
// Immutable after parsing; Apply() is safe from any thread.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/tokenizer/text_splits.h"

namespace kvasir {

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;

  // Cuts each piece of `tokens` further; may rewrite the text (ByteLevel, Metaspace).
  // `at_text_start` says that tokens->text begins the whole text, and not after an added token.
  // Errors: InvalidArgument when a pattern backtracks beyond its limit.
  virtual absl::Status Apply(bool at_text_start, PreTokens* tokens) const = 0;
};

// The `pre_tokenizer` of a tokenizer.json; null for null. Types: ByteLevel, Split, Digits,
// Metaspace, Punctuation, Whitespace, WhitespaceSplit, Sequence. Errors: Unimplemented naming
// another type, InvalidArgument otherwise.
absl::StatusOr<std::unique_ptr<PreTokenizer>> ParsePreTokenizer(const nlohmann::json& value);

}  // namespace kvasir
