// Arguments of a tool call as the models of a family write them.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace kvasir::testing {

enum class Spelling { kJson, kXml, kPairs, kGemma4, kFunctionGemma, kPython };

// `arguments`: a JSON object.
inline std::string Spelled(Spelling spelling, const std::string& arguments) {
  if (spelling == Spelling::kJson) return arguments;
  std::string out;
  const auto values = nlohmann::ordered_json::parse(arguments);
  for (const auto& [key, value] : values.items()) {
    const std::string raw = value.is_string() ? value.get<std::string>() : value.dump();
    const std::string mark = !value.is_string()              ? ""
                             : spelling == Spelling::kGemma4 ? "<|\"|>"
                                                             : "<escape>";
    const char* const comma = out.empty() ? "" : ",";
    switch (spelling) {
      case Spelling::kJson:
        break;
      case Spelling::kXml:
        absl::StrAppend(&out, "<parameter=", key, ">\n", raw, "\n</parameter>\n");
        break;
      case Spelling::kPairs:
        absl::StrAppend(&out, "<arg_key>", key, "</arg_key>\n<arg_value>", raw, "</arg_value>\n");
        break;
      case Spelling::kGemma4:
      case Spelling::kFunctionGemma:
        absl::StrAppend(&out, comma, key, ":", mark, raw, mark);
        break;
      case Spelling::kPython:
        absl::StrAppend(&out, out.empty() ? "" : ", ", key, "=",
                        value.is_boolean() ? (value.get<bool>() ? "True" : "False") : value.dump());
        break;
    }
  }
  return out;
}

}  // namespace kvasir::testing
