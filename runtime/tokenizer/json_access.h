// Typed access to foreign JSON: a missing member or a wrong type becomes an InvalidArgument that
// names the place ("model.byte_fallback must be a boolean, not a string"). No exception of the JSON
// library leaves here.
//
// Stateless functions, safe from any thread. `where` is the dotted path of `object`.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace kvasir {

// Sequences may nest (a normalizer in a normalizer); real files do so twice.
inline constexpr int kMaxComponentDepth = 8;

// Errors: InvalidArgument with position and reason, `what` in front.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view what);

// The member, or null when `object` lacks it, has null there, or is not an object.
const nlohmann::json* FindMember(const nlohmann::json& object, const char* key);

// A member that must be there (and not null).
absl::StatusOr<const nlohmann::json*> GetMember(const nlohmann::json& object, const char* key,
                                                absl::string_view where);
absl::StatusOr<const nlohmann::json*> GetArray(const nlohmann::json& object, const char* key,
                                               absl::string_view where);
absl::StatusOr<std::string> GetString(const nlohmann::json& object, const char* key,
                                      absl::string_view where);
absl::StatusOr<int64_t> GetInt(const nlohmann::json& object, const char* key,
                               absl::string_view where);

// A member that may be missing or null, and then is `otherwise`; a wrong type is still an error.
absl::StatusOr<std::string> GetStringOr(const nlohmann::json& object, const char* key,
                                        absl::string_view where, absl::string_view otherwise);
absl::StatusOr<bool> GetBoolOr(const nlohmann::json& object, const char* key,
                               absl::string_view where, bool otherwise);
absl::StatusOr<int64_t> GetIntOr(const nlohmann::json& object, const char* key,
                                 absl::string_view where, int64_t otherwise);

// "must be X, not Y" for a value of the wrong type at `where`.
absl::Status WrongType(const nlohmann::json& value, absl::string_view where,
                       absl::string_view wanted);

}  // namespace kvasir
