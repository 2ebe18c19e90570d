// JSON that comes out as it went in: whole numbers beyond 64 bits keep their digits, as they do in
// Python. Pure functions, thread safe.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace kvasir {

// Nothing when `text` is no JSON to its last byte, or nests deeper than `max_depth`. Of a key that
// is there twice the last value counts.
std::optional<nlohmann::ordered_json> ParseExactJson(absl::string_view text, int max_depth);

// Whether it is a whole number that 64 bits do not hold.
bool IsBigInteger(const nlohmann::ordered_json& json);

// Without white space; what is no UTF-8 is replaced.
std::string JsonText(const nlohmann::ordered_json& json);

}  // namespace kvasir
