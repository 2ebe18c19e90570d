// TokenizerModel: the part of a tokenizer that turns pieces of text into ids.
//
// Immutable after parsing; Encode() is safe from any thread.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "runtime/tokenizer/text_splits.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class TokenizerModel {
 public:
  virtual ~TokenizerModel() = default;

  // Appends the ids of all pieces. Errors: InvalidArgument for text that the vocabulary cannot
  // express, when the model says that this is an error.
  virtual absl::Status Encode(const PreTokens& tokens, std::vector<TokenId>* ids) const = 0;
};

}  // namespace kvasir
