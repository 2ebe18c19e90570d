// Text from outside as messages and logs show it. Pure, thread safe.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace kvasir {

// `text` in quotes: cut to `max_bytes`, bytes outside printable ASCII escaped.
std::string Quoted(absl::string_view text, size_t max_bytes = 64);

}  // namespace kvasir
