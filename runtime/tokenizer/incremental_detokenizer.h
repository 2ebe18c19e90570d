// IncrementalDetokenizer: turns the tokens of one output sequence into text as they come, and gives
// out only whole UTF-8 characters. The text library's decoding, stage by stage
// (text/decode_stream.h): a token costs the same however long the text is.
//
// One per output sequence, owned by it; borrows the Tokenizer and the list of visible tokens, which
// must outlive it. Not thread safe.
//
// Law: the concatenation of every Append() and of Flush() equals Tokenizer::Decode() of the same
// ids. After Seed(p) it is the text by which Decode(p + ids) continues Decode(p), provided that p
// ends on a character's border; otherwise the character that p began comes out whole, or not again.
//
// Where a stream cannot keep it, because text that was given out stays:
//  - Decode() makes a U+FFFD of every byte in a run of byte tokens ("<0xE4>") that is not UTF-8
//  from
//    end to end. Here the whole characters before the byte that breaks the run stay characters;
//    that byte, and each after it, is a U+FFFD. (The reference's DecodeStream ends in an error.)
//  - A decoder that rewrites the joined text by a regular expression may read it in another way
//    when more follows.
#pragma once

#include <memory>
#include <string>

#include "absl/types/span.h"
#include "runtime/tokenizer/token_id.h"

struct KvasirTextStream;

namespace kvasir {

class Tokenizer;

class IncrementalDetokenizer {
 public:
  // `visible`: special tokens that have text even when the others are skipped; borrowed.
  IncrementalDetokenizer(const Tokenizer* tokenizer, bool skip_special_tokens,
                         absl::Span<const TokenId> visible = {});

  // Call before the first Append(). `prompt` may lack its begin, if some of the tokens that are
  // there have text. Its text is not given out; it decides whether the first generated token keeps
  // its leading space (SentencePiece), and completes a character split over the border. Reads the
  // newest few tokens.
  void Seed(absl::Span<const TokenId> prompt);

  // The new text that no later token can change. Often empty. An id without a token (a padded row
  // of the embedding, say) has no text.
  std::string Append(TokenId id);

  // The end of the sequence: what was held back; an unfinished character becomes U+FFFD.
  std::string Flush();

 private:
  struct Free {
    void operator()(KvasirTextStream* stream) const;
  };

  bool HasText(TokenId id) const;

  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  absl::Span<const TokenId> visible_;
  std::unique_ptr<KvasirTextStream, Free> stream_;
};

}  // namespace kvasir
