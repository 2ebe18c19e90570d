// How deep a JSON text nests, found without parsing it: a tree of a million nested lists costs a
// hundred times the memory of its text, so parsers of foreign text look here first. Pure function,
// thread safe.
#pragma once

#include "absl/strings/string_view.h"

namespace kvasir {

// The deepest nesting of brackets outside strings; 0 without any. Text that is no JSON may be
// misjudged: a parser refuses it either way. Takes time in proportion to the text.
int JsonNestingDepth(absl::string_view text);

}  // namespace kvasir
