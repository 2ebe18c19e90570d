#include "runtime/grammar/compiled_grammars.h"

#include <algorithm>
#include <cstddef>

namespace kvasir {

std::unique_ptr<TokenMatcher> CompiledGrammars::Find(const Constraint& constraint) {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return entry.constraint == constraint;
  });
  if (found == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found);
  return found->matcher->Copy();
}

void CompiledGrammars::Insert(const Constraint& constraint, const TokenMatcher& matcher) {
  if (max_compiled_ <= 0) return;
  if (entries_.size() >= static_cast<size_t>(max_compiled_)) entries_.pop_back();
  entries_.push_front({constraint, matcher.Copy()});
}

}  // namespace kvasir
