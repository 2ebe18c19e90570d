// Reads tokenizer.json into the parts a Tokenizer works with.
//
// TokenizerParts is immutable once ParseTokenizer() has returned it, and then safe from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/tokenizer/added_tokens.h"
#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/post_processor.h"
#include "runtime/tokenizer/pre_tokenizer.h"
#include "runtime/tokenizer/token_decoder.h"
#include "runtime/tokenizer/token_id.h"
#include "runtime/tokenizer/tokenizer_model.h"
#include "runtime/tokenizer/vocabulary.h"

namespace kvasir {

struct TokenizerParts {
  explicit TokenizerParts(TokenDecoder token_decoder) : decoder(std::move(token_decoder)) {}

  Vocabulary vocabulary;
  std::vector<bool> is_special;  // [vocabulary.size()]
  std::vector<bool> is_added;    // [vocabulary.size()]

  // Encoding, in this order.
  AddedTokens raw_added_tokens;                 // sought in the text as it came
  std::unique_ptr<Normalizer> normalizer;       // may be null
  AddedTokens normalized_added_tokens;          // sought in the normalised text
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // may be null: a section is one piece
  std::unique_ptr<TokenizerModel> model;        // borrows vocabulary and is_special
  PostProcessor post_processor;

  // Decoding.
  TokenDecoder decoder;
  std::string token_bytes;  // what every token contributes to running text, end to end
  std::vector<uint32_t> token_bytes_offset;  // [vocabulary.size() + 1] into token_bytes

  std::optional<TokenId> bos_token_id;
  std::optional<TokenId> eos_token_id;
};

// The result is never null. Errors: as Tokenizer::FromJson().
absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTokenizer(
    absl::string_view tokenizer_json, absl::string_view tokenizer_config_json);

}  // namespace kvasir
