// Tokenizer files hold patterns for Oniguruma (Ruby's syntax); PCRE2 runs them here. This says them
// in PCRE2's words where the two read one text differently, and refuses what cannot be said.
//
// Stateless, safe from any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// What differs: U+180E is no blank in Oniguruma, marks and all connectors are word characters, and
// a script has only the characters that belong to it. The result is to be compiled with UTF, UCP
// and MULTILINE (Ruby's ^ and $ match at lines, always). Errors: Unimplemented with the construct
// and its offset, for class set operations, nested classes, \W in a class, \h and \Q. Errors of
// syntax are left to PCRE2.
absl::StatusOr<std::string> TranslateOnigurumaPattern(absl::string_view pattern);

}  // namespace kvasir
