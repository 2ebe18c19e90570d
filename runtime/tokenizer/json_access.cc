#include "runtime/tokenizer/json_access.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

using nlohmann::json;

std::string PathOf(absl::string_view where, const char* key) {
  return where.empty() ? std::string(key) : absl::StrCat(where, ".", key);
}

absl::StatusOr<std::string> AsString(const json& value, absl::string_view path) {
  if (!value.is_string()) return WrongType(value, path, "a string");
  return value.get_ref<const std::string&>();
}

absl::StatusOr<int64_t> AsInt(const json& value, absl::string_view path) {
  // Fractions and numbers beyond 64 bits are stored as doubles, and so refused here.
  if (!value.is_number_integer()) return WrongType(value, path, "an integer");
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is ", value.get<uint64_t>(), ", which no field here can mean"));
  }
  return value.get<int64_t>();
}

}  // namespace

absl::StatusOr<json> ParseJson(absl::string_view text, absl::string_view what) {
  try {
    return json::parse(text.begin(), text.end());
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not valid JSON: ", error.what()));
  }
}

const json* FindMember(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<const json*> GetMember(const json& object, const char* key,
                                      absl::string_view where) {
  if (!object.is_object())
    return WrongType(object, where.empty() ? "the file" : where, "an object");
  const json* member = FindMember(object, key);
  if (member == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(PathOf(where, key), " is missing"));
  }
  return member;
}

absl::StatusOr<const json*> GetArray(const json& object, const char* key, absl::string_view where) {
  KVASIR_ASSIGN_OR_RETURN(const json* member, GetMember(object, key, where));
  if (!member->is_array()) return WrongType(*member, PathOf(where, key), "an array");
  return member;
}

absl::StatusOr<std::string> GetString(const json& object, const char* key,
                                      absl::string_view where) {
  KVASIR_ASSIGN_OR_RETURN(const json* member, GetMember(object, key, where));
  return AsString(*member, PathOf(where, key));
}

absl::StatusOr<int64_t> GetInt(const json& object, const char* key, absl::string_view where) {
  KVASIR_ASSIGN_OR_RETURN(const json* member, GetMember(object, key, where));
  return AsInt(*member, PathOf(where, key));
}

absl::StatusOr<std::string> GetStringOr(const json& object, const char* key,
                                        absl::string_view where, absl::string_view otherwise) {
  const json* member = FindMember(object, key);
  if (member == nullptr) return std::string(otherwise);
  return AsString(*member, PathOf(where, key));
}

absl::StatusOr<bool> GetBoolOr(const json& object, const char* key, absl::string_view where,
                               bool otherwise) {
  const json* member = FindMember(object, key);
  if (member == nullptr) return otherwise;
  if (!member->is_boolean()) return WrongType(*member, PathOf(where, key), "a boolean");
  return member->get<bool>();
}

absl::StatusOr<int64_t> GetIntOr(const json& object, const char* key, absl::string_view where,
                                 int64_t otherwise) {
  const json* member = FindMember(object, key);
  if (member == nullptr) return otherwise;
  return AsInt(*member, PathOf(where, key));
}

absl::Status WrongType(const json& value, absl::string_view where, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(where, " must be ", wanted, ", not ",
                                                 value.is_array()    ? "an array"
                                                 : value.is_object() ? "an object"
                                                 : value.is_number()
                                                     ? "another number"
                                                     : absl::StrCat("a ", value.type_name())));
}

}  // namespace kvasir
