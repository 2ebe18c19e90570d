// CompiledGrammars: the constraints used last, compiled, of one model.
//
// Owned by the grammar compiler's thread; not thread-safe. A matcher in it never moves on: requests
// get copies. Bounded by count; a constraint's text is bounded by GrammarLimits.
#pragma once

#include <list>
#include <memory>

#include "runtime/grammar/constraint.h"
#include "runtime/grammar/token_matcher.h"

namespace kvasir {

class CompiledGrammars {
 public:
  // max_compiled: constraints; 0 keeps none.
  explicit CompiledGrammars(int max_compiled) : max_compiled_(max_compiled) {}

  // A copy at the beginning of an output, or null. The constraint is then the one used last.
  std::unique_ptr<TokenMatcher> Find(const Constraint& constraint);

  // Keeps a copy of `matcher`, which stands at the beginning and which Find() did not have. The
  // constraint whose last use is longest ago makes room.
  void Insert(const Constraint& constraint, const TokenMatcher& matcher);

  void Clear() { entries_.clear(); }

 private:
  struct Entry {
    Constraint constraint;
    std::unique_ptr<TokenMatcher> matcher;
  };

  const int max_compiled_;
  // Used last first. A walk compares lengths before texts, and there are few.
  std::list<Entry> entries_;
};

}  // namespace kvasir
