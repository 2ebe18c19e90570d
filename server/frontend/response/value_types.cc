#include "server/frontend/response/value_types.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 8;
constexpr int kMaxVisits = 256;

void AddNamed(absl::string_view name, ValueTypes* types) {
  types->string |= name == "string";
  types->integer |= name == "integer";
  types->number |= name == "number";
  types->boolean |= name == "boolean";
  types->null |= name == "null";
  types->object |= name == "object";
  types->array |= name == "array";
}

void AddValue(const Json& value, ValueTypes* types) {
  types->string |= value.is_string();
  types->integer |= value.is_number_integer();
  types->number |= value.is_number();
  types->boolean |= value.is_boolean();
  types->null |= value.is_null();
  types->object |= value.is_object();
  types->array |= value.is_array();
}

// What "#/$defs/name" leads to; null when it leads nowhere.
const Json* Resolve(const std::string& reference, const Json& root) {
  if (!absl::StartsWith(reference, "#")) return nullptr;
  try {
    const Json::json_pointer pointer(reference.substr(1));
    return root.contains(pointer) ? &root.at(pointer) : nullptr;
  } catch (const Json::exception&) {
    return nullptr;  // no pointer, or an index that is no number
  }
}

void Add(const Json& schema, const Json& root, int depth, int* visits, ValueTypes* types) {
  if (!schema.is_object() || depth > kMaxDepth || --*visits < 0) return;
  if (const auto at = schema.find("$ref"); at != schema.end() && at->is_string()) {
    const Json* const target = Resolve(at->get_ref<const std::string&>(), root);
    if (target != nullptr) Add(*target, root, depth + 1, visits, types);
  }
  const auto type = schema.find("type");
  if (type != schema.end()) {
    if (type->is_string()) AddNamed(type->get_ref<const std::string&>(), types);
    if (type->is_array()) {
      for (const Json& each : *type) {
        if (each.is_string()) AddNamed(each.get_ref<const std::string&>(), types);
      }
    }
  } else {
    if (const auto at = schema.find("const"); at != schema.end()) AddValue(*at, types);
    if (const auto at = schema.find("enum"); at != schema.end() && at->is_array()) {
      for (const Json& each : *at) AddValue(each, types);
    }
  }
  for (const char* several : {"anyOf", "oneOf", "allOf"}) {
    const auto branches = schema.find(several);
    if (branches == schema.end() || !branches->is_array()) continue;
    for (const Json& branch : *branches) Add(branch, root, depth + 1, visits, types);
  }
}

}  // namespace

ValueTypes AllowedTypes(const Json& schema, const Json& root) {
  ValueTypes types;
  int visits = kMaxVisits;
  Add(schema, root, 0, &visits, &types);
  return types;
}

}  // namespace kvasir
