// IncrementalDetokenizer: turns the tokens of one output sequence into text as they come, and gives
// out only whole UTF-8 characters.
//
// It decodes the newest few tokens again with each new one and gives out what the text has grown
// by: so it follows every decoder that a model's files can name, at a few microseconds a token.
//
// One per output sequence, owned by it; borrows the Tokenizer and the list of visible tokens, which
// must outlive it. Not thread safe.
//
// Law: the concatenation of every Append() and of Flush() equals Tokenizer::Decode() of the same
// ids. After Seed(p) it is the text by which Decode(p + ids) continues Decode(p), provided that p
// ends on a character's border; otherwise the character that p began comes out whole. Exception: a
// decoder may judge a run of byte tokens as a whole, or rewrite text when more follows. Text once
// given out stays; what comes after it is then the best continuation.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class Tokenizer;

class IncrementalDetokenizer {
 public:
  // `visible`: special tokens that have text even when the others are skipped; borrowed.
  IncrementalDetokenizer(const Tokenizer* tokenizer, bool skip_special_tokens,
                         absl::Span<const TokenId> visible = {});

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
  bool HasText(TokenId id) const;
  std::string DecodeTokens(const std::vector<TokenId>& tokens) const;
  std::string DecodeRecent() const { return DecodeTokens(recent_); }
  // What `text`, that of recent_, has beyond what was given out, less what may still change.
  std::string TakeNew(const std::string& text, bool at_end);
  // The text of the tokens of which nothing was given out, apart from those before them.
  std::string StartAnew();
  // Those of recent_[begin, end) by themselves, whatever the decoder makes of them.
  std::string BytesOf(size_t begin, size_t end) const;
  // How many of the tokens whose text was given out make a window that begins with a character.
  size_t GivenTokensToKeep() const;
  // Forgets all tokens but those of the newest text that was given out.
  void Shorten();

  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  absl::Span<const TokenId> visible_;

  std::vector<TokenId> recent_;  // the newest tokens with text, at most kMaxRecent
  size_t newest_begin_ = 0;      // of recent_, where those begin whose text was given out last
  size_t given_tokens_ = 0;      // of recent_, all of whose text was given out
  std::string given_;            // of their text, what was given out or belongs to the prompt
  std::string prompts_;          // replacement characters at the prompt's end: not to be given out
};

}  // namespace kvasir
