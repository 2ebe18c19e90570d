// The seam between whoever guesses the sequences' next tokens and the engine that checks the
// guesses. A guess may be wrong; it costs a row of the next pass and changes no token.
//
// One Drafter serves all sequences of an engine and is asked for those of a step together, so that
// one with a model behind it computes them in one pass. What it keeps of a sequence is a
// DraftState, which the sequence owns; a drafter outlives its states. All are the engine thread's.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

struct Sequence;

class DraftState {
 public:
  virtual ~DraftState() = default;
  // Set by the drafter: it has no idea before it has taken in the rest of the sequence's beginning,
  // for which this step had no room. It wants to be asked again in the next one.
  bool reads_on = false;
};

struct DraftAsk {
  DraftState* state = nullptr;  // of the sequence, made by the drafter that is asked
  // Prompt and output so far: that of the last ask with more behind it.
  absl::Span<const TokenId> history;
  int32_t max_tokens = 0;
  // The answer: at most max_tokens tokens, each below the model's vocabulary, that may follow.
  // Empty when the drafter has no idea.
  std::vector<TokenId> draft = {};
};

class Drafter {
 public:
  virtual ~Drafter() = default;

  virtual std::unique_ptr<DraftState> NewState(const Sequence& sequence) = 0;

  // Fills in the drafts. Whether the time it took is what so many tokens cost: false when it also
  // took in the beginning of a sequence, which is computed once.
  virtual bool Propose(absl::Span<DraftAsk> asks) = 0;

  // Whether Propose costs nothing that matters beside a pass of the model: it is then asked before
  // it is known how many tokens are worth a try.
  virtual bool is_free() const = 0;
};

}  // namespace kvasir
