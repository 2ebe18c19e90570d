// Which kinds of values a tool's parameter allows, for notations that write them without quotes.
// Pure, thread safe.
#pragma once

#include "nlohmann/json.hpp"

namespace kvasir {

struct ValueTypes {
  bool string = false;
  bool integer = false;
  bool number = false;
  bool boolean = false;
  bool null = false;
  bool object = false;
  bool array = false;

  // False: the schema says nothing of types.
  bool any() const { return string || integer || number || boolean || null || object || array; }
};

// What `schema` or a branch of it allows by type, enum or const; references are sought in `root`.
// Looks a few levels deep and at a bounded number of branches.
ValueTypes AllowedTypes(const nlohmann::json& schema, const nlohmann::json& root);

}  // namespace kvasir
