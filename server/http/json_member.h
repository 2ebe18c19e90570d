// The text of a value inside a JSON document as its author wrote it: what was parsed has lost the
// order of an object's members, and in a schema that order says in which order they come out.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"

namespace kvasir {

// The value at `path` (names of members, outermost first) in `document`; the last of several
// members of one name. Empty when there is none. A view into `document`; of what is not valid JSON,
// any part.
absl::string_view JsonMember(absl::string_view document,
                             const std::vector<absl::string_view>& path);

}  // namespace kvasir
