// "Did you mean": the known word nearest to a misspelt one. Pure functions, thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace kvasir {

// Fewest insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
// O(|a| * |b|) time: callers bound the length of foreign words.
int EditDistance(absl::string_view a, absl::string_view b);

// "; did you mean 'block_tokens'?", ready to be appended to a message; empty when nothing is near
// enough to be a likely slip of the keyboard. On a tie the first candidate wins.
std::string DidYouMean(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace kvasir
