#include "runtime/model/json_fields.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/json_nesting.h"
#include "base/mmap_file.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

// A value as messages show it: short, and with invalid UTF-8 replaced instead of thrown at.
std::string Shown(const Json& value) {
  constexpr size_t kMaxShown = 80;
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = absl::StrCat(text.substr(0, kMaxShown), "...");
  return text;
}

std::optional<int64_t> AsInteger(const Json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX))
      return INT64_MAX;  // out of every range we ask for
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (std::abs(number) < 1e15 && number == std::floor(number))
      return static_cast<int64_t>(number);
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<Json> ParseJsonObject(absl::string_view text, absl::string_view file,
                                     size_t max_bytes) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, " has ", text.size(), " bytes, more than the limit of ", max_bytes));
  }
  const int depth = JsonNestingDepth(text);
  if (depth > kMaxJsonDepth) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, " is nested ", depth, " levels deep, more than the limit of ", kMaxJsonDepth));
  }
  try {
    Json value = Json::parse(text.data(), text.data() + text.size());
    if (!value.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, " must hold a JSON object, but holds ", value.type_name()));
    }
    return value;
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(file, " is not valid JSON: ", error.what()));
  }
}

absl::StatusOr<Json> ReadJsonObject(const std::string& path, size_t max_bytes) {
  KVASIR_ASSIGN_OR_RETURN(const MmapFile file, MmapFile::Open(path));
  const absl::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                               file.bytes().size());
  return ParseJsonObject(text, path, max_bytes);
}

bool JsonFields::Has(const char* key) const {
  const auto it = object_->find(key);
  return it != object_->end() && !it->is_null();
}

const nlohmann::json& JsonFields::At(const char* key) const { return *object_->find(key); }

absl::Status JsonFields::Wrong(const char* key, absl::string_view rule) const {
  if (!Has(key)) {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", key, " is missing, ", rule));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file_, ": ", key, " is ", Shown(At(key)), ", ", rule));
}

absl::StatusOr<int64_t> JsonFields::Int(const char* key, int64_t min, int64_t max) const {
  const std::optional<int64_t> value = Has(key) ? AsInteger(At(key)) : std::nullopt;
  if (!value || *value < min || *value > max) {
    return Wrong(key, absl::StrCat("must be an integer from ", min, " to ", max));
  }
  return *value;
}

absl::StatusOr<int64_t> JsonFields::IntOr(const char* key, int64_t fallback, int64_t min,
                                          int64_t max) const {
  if (!Has(key)) return fallback;
  return Int(key, min, max);
}

absl::StatusOr<double> JsonFields::Number(const char* key, double min, double max) const {
  const double value = Has(key) && At(key).is_number() ? At(key).get<double>() : NAN;
  if (!(value >= min && value <= max)) {  // written so that NaN fails
    return Wrong(key, absl::StrCat("must be a number from ", min, " to ", max));
  }
  return value;
}

absl::StatusOr<double> JsonFields::NumberOr(const char* key, double fallback, double min,
                                            double max) const {
  if (!Has(key)) return fallback;
  return Number(key, min, max);
}

absl::StatusOr<bool> JsonFields::BoolOr(const char* key, bool fallback) const {
  if (!Has(key)) return fallback;
  if (!At(key).is_boolean()) return Wrong(key, "must be true or false");
  return At(key).get<bool>();
}

absl::StatusOr<std::string> JsonFields::StringOr(const char* key,
                                                 absl::string_view fallback) const {
  if (!Has(key)) return std::string(fallback);
  if (!At(key).is_string()) return Wrong(key, "must be a string");
  return At(key).get<std::string>();
}

absl::StatusOr<std::vector<int>> JsonFields::IntList(const char* key, size_t max_size, int64_t min,
                                                     int64_t max) const {
  const std::string rule =
      absl::StrCat("must be at most ", max_size, " integers from ", min, " to ", max);
  if (!Has(key)) return Wrong(key, rule);
  const Json& value = At(key);
  const Json list = value.is_array() ? value : Json::array({value});
  if (list.size() > max_size) return Wrong(key, rule);
  std::vector<int> numbers;
  for (const Json& element : list) {
    const std::optional<int64_t> number = AsInteger(element);
    if (!number || *number < min || *number > max) return Wrong(key, rule);
    numbers.push_back(static_cast<int>(*number));
  }
  return numbers;
}

absl::StatusOr<std::vector<double>> JsonFields::NumberList(const char* key, size_t max_size,
                                                           double min, double max) const {
  const std::string rule =
      absl::StrCat("must be at most ", max_size, " numbers from ", min, " to ", max);
  if (!Has(key)) return Wrong(key, rule);
  const Json& value = At(key);
  const Json list = value.is_array() ? value : Json::array({value});
  if (list.size() > max_size) return Wrong(key, rule);
  std::vector<double> numbers;
  for (const Json& element : list) {
    const double number = element.is_number() ? element.get<double>() : NAN;
    if (!(number >= min && number <= max)) return Wrong(key, rule);
    numbers.push_back(number);
  }
  return numbers;
}

}  // namespace kvasir
