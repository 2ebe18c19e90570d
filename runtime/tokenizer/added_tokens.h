// AddedTokens: finds in a text the tokens that stand outside the model's vocabulary (or above it):
// special ones such as "<|endoftext|>", and whatever else the file lists under added_tokens.
//
// Immutable; const methods are safe from any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/tokenizer/byte_trie.h"
#include "runtime/tokenizer/text_splits.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool special = false;
  bool normalized = false;   // is sought in the normalised text
  bool single_word = false;  // matches only between non-word characters
  bool lstrip = false;       // takes the blanks before it
  bool rstrip = false;       // takes the blanks after it
};

class AddedTokens {
 public:
  AddedTokens() = default;

  // `tokens` as they are to be sought: the caller has normalised their content if need be. Empty
  // contents are ignored.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  struct Section {
    TextSpan span;
    std::optional<TokenId> token;  // absent: ordinary text
  };

  // Cuts `text` (valid UTF-8) at the leftmost, of those the longest, matches. Empty text has no
  // section. With `parse_special` false the names of special tokens stay ordinary text.
  std::vector<Section> Split(absl::string_view text, bool parse_special) const;

 private:
  std::vector<AddedToken> tokens_;
  ByteTrie trie_;  // content -> index into tokens_
};

}  // namespace kvasir
