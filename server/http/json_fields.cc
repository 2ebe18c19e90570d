#include "server/http/json_fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json_nesting.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {

using nlohmann::json;

absl::StatusOr<json> ParseJsonObject(absl::string_view text) {
  if (JsonNestingDepth(text) > kMaxJsonDepth) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the body's JSON is nested deeper than the limit of ", kMaxJsonDepth, "; flatten it"));
  }
  if (const std::optional<size_t> offset = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body is not UTF-8 at byte ", *offset, "; send JSON as UTF-8"));
  }
  json body;
  try {
    body = json::parse(text.begin(), text.end());
  } catch (const json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat("the body of ", text.size(),
                                                   " bytes is no JSON: it breaks at byte ",
                                                   error.byte, "; send one JSON object"));
  } catch (const json::exception&) {  // a number too large for a double
    return absl::InvalidArgumentError("the body holds a number out of range");
  }
  if (!body.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body is a JSON ", body.type_name(), "; send one JSON object"));
  }
  return body;
}

bool AsksForNothing(const json& value) {
  return value.is_null() || value == false || value == "" ||
         (value.is_structured() && value.empty());
}

const json* JsonFields::Find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<bool> JsonFields::Bool(const char* name) const {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  WrongType(name, "true or false", *value);
  return std::nullopt;
}

std::optional<double> JsonFields::Number(const char* name) const {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) return value->get<double>();
  WrongType(name, "a number", *value);
  return std::nullopt;
}

std::optional<int64_t> JsonFields::Int64(const char* name) const {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (value->is_number_unsigned() &&
      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    // falls through to the complaint
  } else if (value->is_number_integer()) {
    return value->get<int64_t>();
  } else if (value->is_number_float()) {
    const double number = value->get<double>();
    if (std::floor(number) == number && std::abs(number) <= kExact) {
      return static_cast<int64_t>(number);
    }
  }
  WrongType(name, "a whole number of at most 63 bits", *value);
  return std::nullopt;
}

std::optional<int32_t> JsonFields::Int32(const char* name) const {
  const std::optional<int64_t> value = Int64(name);
  if (!value) return std::nullopt;
  if (*value >= std::numeric_limits<int32_t>::min() &&
      *value <= std::numeric_limits<int32_t>::max()) {
    return static_cast<int32_t>(*value);
  }
  Fault(name, absl::StrCat(*value, " is outside the range of 32 bits"));
  return std::nullopt;
}

std::optional<std::string> JsonFields::String(const char* name) const {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  WrongType(name, "a string", *value);
  return std::nullopt;
}

std::optional<JsonFields> JsonFields::Object(const char* name) const {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) return JsonFields(*value, absl::StrCat(Path(name), "."), violations_);
  WrongType(name, "an object", *value);
  return std::nullopt;
}

void JsonFields::Fault(const char* name, std::string description) const {
  violations_->Add(Path(name), std::move(description));
}

std::string JsonFields::Path(absl::string_view name) const { return absl::StrCat(path_, name); }

void JsonFields::WrongType(const char* name, const char* wanted, const json& value) const {
  Fault(name, absl::StrCat("is a JSON ", value.type_name(), ", but must be ", wanted));
}

}  // namespace kvasir
