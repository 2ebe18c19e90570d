// The byte-level alphabet of GPT-2: every byte stands for one printable character, so that a
// vocabulary of bytes can be written as JSON text ("Ġ" is the space, "Ċ" the newline).
//
// Stateless functions, safe from any thread.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace kvasir {

// Appends one character for each byte.
void AppendByteLevel(absl::string_view bytes, std::string* out);

// The bytes that `token` (valid UTF-8) spells; nullopt when it has a character outside the
// alphabet.
std::optional<std::string> BytesOfByteLevel(absl::string_view token);

}  // namespace kvasir
