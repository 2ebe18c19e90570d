// IncrementalDetokenizer: turns the tokens of one output sequence into text as they come, and gives
// out only whole UTF-8 characters.
//
// One per output sequence, owned by it; borrows the Tokenizer, which must outlive it. Not thread
// safe.
//
// Law: the concatenation of every Append() and of Flush() equals Tokenizer::Decode() of the same
// ids. After Seed(p) it is the text by which Decode(p + ids) continues Decode(p), provided that p
// ends on a character's border; otherwise the character that p began comes out whole.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class Tokenizer;

class IncrementalDetokenizer {
 public:
  IncrementalDetokenizer(const Tokenizer* tokenizer, bool skip_special_tokens);

  // Call before the first Append(). `prompt_tail` is the end of the prompt: the whole of it, or a
  // few tokens as long as some of them have text. Its text is not given out; it decides whether the
  // first generated token keeps its leading space (SentencePiece), and completes a character split
  // over the border.
  void Seed(absl::Span<const TokenId> prompt_tail);

  // The new text that no later token can change. Often empty. An id without a token (a padded row
  // of the embedding, say) has no text.
  std::string Append(TokenId id);

  // The end of the sequence: what was held back; an unfinished character becomes U+FFFD.
  std::string Flush();

 private:
  // Appends to `out` the bytes in `pending_` that are decided, as valid UTF-8.
  void TakeCharacters(std::string* out);
  // Applies the decoder's Strip to text on its way out: what is left of it, and of earlier text, to
  // give out.
  std::string Strip(std::string text);

  const Tokenizer* const tokenizer_;
  const bool skip_special_tokens_;

  bool at_first_token_ = true;  // no token with text or name was taken yet
  int leading_strips_left_;     // characters the decoder may still remove from the front
  std::string pending_;         // raw bytes of an unfinished character, at most 3 between calls
  std::string held_back_;       // a run of strippable characters that may turn out to be the end
};

}  // namespace kvasir
