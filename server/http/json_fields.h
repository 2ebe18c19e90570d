// Reads the fields of a JSON body from outside: bounded parsing, and typed access that notes what
// has the wrong type, so that one answer names every fault.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "server/frontend/validation/field_violations.h"

namespace kvasir {

// Objects and arrays inside one another.
inline constexpr int kMaxJsonDepth = 64;

// InvalidArgument: not JSON (with the position), not UTF-8, deeper than kMaxJsonDepth, or no
// object.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text);

// null, false, "", [] or {}: how clients write out what they do not ask for.
bool AsksForNothing(const nlohmann::json& value);

// One object of a body. A field that is null counts as absent. Borrows both.
class JsonFields {
 public:
  // `path`: what stands before a field's name in messages: "" or "stream_options.".
  JsonFields(const nlohmann::json& object, std::string path, Violations* violations)
      : object_(object), path_(std::move(path)), violations_(violations) {}

  const nlohmann::json& object() const { return object_; }

  // Null when absent.
  const nlohmann::json* Find(const char* name) const;
  // Absent, or noted as a violation when the type is wrong.
  std::optional<bool> Bool(const char* name) const;
  std::optional<double> Number(const char* name) const;
  // A whole number that fits; 1.0 counts as one.
  std::optional<int32_t> Int32(const char* name) const;
  std::optional<int64_t> Int64(const char* name) const;
  std::optional<std::string> String(const char* name) const;
  // An object.
  std::optional<JsonFields> Object(const char* name) const;

  void Fault(const char* name, std::string description) const;
  std::string Path(absl::string_view name) const;

 private:
  void WrongType(const char* name, const char* wanted, const nlohmann::json& value) const;

  const nlohmann::json& object_;
  const std::string path_;
  Violations* const violations_;
};

}  // namespace kvasir
