// StopChecker: decides after each generated token whether a completion ends, and which text may go
// out.
//
// One per completion, owned by its sequence; movable; not thread safe. It copies what it needs.
//
// Ends, in order of precedence when several meet in one token:
//   1. an end-of-sequence id (unless ignore_eos), a stop id: the token's own text is not given out;
//   2. a stop string: neither it nor what follows is given out;
//   3. the token limit: kContextFull when the context's end had lowered it, kLength otherwise.
// min_tokens: the first min_tokens tokens can end nothing. End and stop ids among them are ordinary
// tokens, and a stop string that is complete inside their text is ordinary text. One that is
// completed by a later token counts.
//
// Of several stop strings that one is taken which is complete first, whatever begins first; of
// those that end at the same byte, the longest. So the outcome does not depend on how the text
// falls into tokens, and no token is generated only to see whether a longer stop string would have
// matched as well.
//
// Text that could still become a stop string is held back: never more than a byte less than the
// longest stop string. Cost: one automaton step per byte of text, whatever the number of stop
// strings (Aho, Corasick, "Efficient string matching", 1975); nothing when there are none.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/engine/request.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class StopChecker {
 public:
  struct Verdict {
    std::string text;  // whole UTF-8 characters; at an end, nothing is held back any more
    bool finished = false;
    FinishReason reason = FinishReason::kLength;  // the rest only when finished
    std::string stop_string;                      // kStop by a string
    std::optional<TokenId> stop_token;            // kStop by an id
  };

  // `params` (stop strings: valid UTF-8, empty ones are ignored) and `eos_token_ids` are borrowed
  // for this call. max_tokens_effective: params->max_tokens, or less where the context ends; >= 1.
  StopChecker(const StoppingParams* params, absl::Span<const TokenId> eos_token_ids,
              int32_t max_tokens_effective);
  StopChecker(StopChecker&&) noexcept;
  StopChecker& operator=(StopChecker&&) noexcept;
  ~StopChecker();

  // One generated token and the text (whole UTF-8 characters, often empty) that became known with
  // it. Not after an end.
  Verdict Append(TokenId token, absl::string_view new_text);

  // The text held back, at an end that came from elsewhere (cancelled, deadline). Empty after an
  // end of Append.
  std::string Flush();

  // Ids that must not be drawn as the token that is `ahead` tokens behind the next one, because
  // they would be an end too early. Valid until the next Append.
  absl::Span<const TokenId> banned_tokens(int32_t ahead = 0) const;

 private:
  class Automaton;

  // Runs over `new_text`, adds what may go out to verdict->text and sets a match.
  void MatchText(absl::string_view new_text, Verdict* verdict);

  int32_t max_tokens_;
  int32_t min_tokens_;
  FinishReason limit_reason_;
  size_t num_eos_tokens_;                       // of end_tokens_, the first ones
  std::vector<TokenId> end_tokens_;             // end-of-sequence ids, then stop ids
  std::unique_ptr<const Automaton> automaton_;  // null without stop strings

  int32_t generated_ = 0;
  int32_t state_ = 0;  // of the automaton
  std::string held_;   // the longest end of the text so far that could become a stop string
};

}  // namespace kvasir
