// GrammarCompiler: makes matchers of constraints, for one model.
//
// Owned by the served model; borrows its tokenizer. What it needs to know of the vocabulary is
// made with the first constraint (some 300 ms and 50 MB for 128 000 tokens) and shared by all.
//
// Compile() may be called from any thread. A thread with a deep stack, for schemas that refer to
// themselves, compiles one after the other; beside it at most two end that outlasted their callers.
// The last GrammarLimits::max_compiled stay compiled; a request that brings one of them gets a copy
// that shares nothing with others, so that limits are met at the same place as without.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/grammar/constraint.h"
#include "runtime/grammar/grammar_counts.h"
#include "runtime/grammar/grammar_limits.h"
#include "runtime/grammar/token_matcher.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {

class GrammarCompiler {
 public:
  // vocab_size: logits of the model. eos_token_ids: those that end an output. on_turn: what a
  // thread does first when a constraint's turn has come; for tests.
  GrammarCompiler(const Tokenizer* tokenizer, int vocab_size, std::vector<TokenId> eos_token_ids,
                  const GrammarLimits& limits,
                  std::function<void(const Constraint&)> on_turn = nullptr);
  // Nobody may wait in Compile() any more. Matchers may live on while the tokenizer does.
  ~GrammarCompiler();

  // A matcher at the beginning of an output. Blocks until its turn comes and while it compiles,
  // max_compile_time each, or to the deadline. InvalidArgument with the reason: the constraint is
  // broken, has what cannot be kept, is beyond the limits, or allows no output. ResourceExhausted:
  // too many wait already, or its turn did not come. DeadlineExceeded.
  absl::StatusOr<std::unique_ptr<TokenMatcher>> Compile(Constraint constraint, absl::Time deadline);

  GrammarCounts counts() const;

 private:
  class Worker;
  const GrammarLimits limits_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace kvasir
