// The seam between whoever guesses a sequence's next tokens and the engine that checks the guesses.
//
// One Drafter per sequence, owned by it and called by the engine thread only. A guess may be wrong;
// it costs a row of the next pass and changes no token.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class Drafter {
 public:
  virtual ~Drafter() = default;

  // At most `max_tokens` tokens, each below the vocabulary's size, that may follow `history`:
  // prompt and output so far, which is that of the last call with more behind it. Empty when it has
  // no idea.
  virtual std::vector<TokenId> Propose(absl::Span<const TokenId> history, int32_t max_tokens) = 0;

  // Whether Propose costs nothing that matters beside a pass of the model: it is then asked before
  // it is known how many tokens are worth a try.
  virtual bool is_free() const = 0;
};

}  // namespace kvasir
