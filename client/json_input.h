// JSON that a user gives the command line, read with care: a text that nests too deep would overrun
// the stack of whoever walks its tree.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace kvasir {

// Keeps the order of keys: templates print it. `what` names the text in errors. InvalidArgument
// when it is no JSON, or nests deeper than 128 levels.
absl::StatusOr<nlohmann::ordered_json> ParseJsonInput(absl::string_view text,
                                                      absl::string_view what);

}  // namespace kvasir
