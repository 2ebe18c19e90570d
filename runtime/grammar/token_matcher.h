// TokenMatcher: where one completion stands in its grammar, and so which tokens may come next.
//
// Owned by a sequence and used by one thread at a time; Clone() gives another at the same place.
// Its state follows the tokens that are committed, nothing else: a preempted sequence keeps it.
// Memory is bounded by the limits of the compiler that made it (grammar_compiler.h).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/tokenizer/token_id.h"
#include "text/kvasir_text.h"

namespace kvasir {

// Words of a mask with a bit for each token.
constexpr size_t MaskWords(size_t vocab_size) { return (vocab_size + 31) / 32; }

class TokenMatcher {
 public:
  explicit TokenMatcher(KvasirTextMatcher* handle) : handle_(handle) {}

  // One at the same place that goes a way of its own. Clones share the automaton that grows as
  // they are used, and so its limit; they are for the completions of one request.
  std::unique_ptr<TokenMatcher> Clone() const;
  // As Clone(), with an automaton of its own.
  std::unique_ptr<TokenMatcher> Copy() const;

  // Bit i % 32 of mask[i / 32]: whether token i may come next; an end-of-sequence id where the
  // output may end. mask: [MaskWords(vocab_size)]. InvalidArgument when no token may come, or the
  // state grows beyond the limits; every later call then fails, too.
  absl::Status FillMask(absl::Span<uint32_t> mask);

  // The output goes on with `token`. InvalidArgument when it was not allowed.
  absl::Status Commit(TokenId token);

  // The next tokens, where there is no choice: masks allow exactly these, one after the other.
  std::vector<TokenId> Forced() const;

  // Whether the output may end here; whether it must, for nothing can follow.
  bool IsAccepting() { return kvasir_text_matcher_is_accepting(handle_.get()); }
  bool IsComplete() const { return kvasir_text_matcher_is_complete(handle_.get()); }

 private:
  struct Free {
    void operator()(KvasirTextMatcher* matcher) const { kvasir_text_matcher_free(matcher); }
  };
  std::unique_ptr<KvasirTextMatcher, Free> handle_;
};

}  // namespace kvasir
