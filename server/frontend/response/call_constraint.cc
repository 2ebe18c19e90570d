#include "server/frontend/response/call_constraint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/quoted.h"
#include "nlohmann/json.hpp"
#include "server/frontend/response/call_body.h"

namespace kvasir {
namespace {

// Properties are written in the schema's order, so it must be kept. Finding a key is a walk over
// all of them there, hence the bound.
using Json = nlohmann::ordered_json;

constexpr size_t kMaxToolsBytes = size_t{256} << 10;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char* StringsName(ArgumentWriting::Strings strings) {
  switch (strings) {
    case ArgumentWriting::Strings::kRaw:
      return "raw";
    case ArgumentWriting::Strings::kMarked:
      return "marked";
    case ArgumentWriting::Strings::kPython:
      return "python";
  }
  return "";
}

Json Notation(const std::optional<ArgumentWriting>& writing) {
  if (!writing) return nullptr;
  return {{"before", writing->before},   {"after", writing->after},
          {"between", writing->between}, {"strings", StringsName(writing->strings)},
          {"mark", writing->mark},       {"forbidden", writing->forbidden}};
}

// What the reader of the calls takes for a name; so it spells no marker either.
bool IsSpelled(absl::string_view name, const std::optional<ArgumentWriting>& writing) {
  if (!IsToolName(name) || absl::StrContains(name, '\\')) return false;
  if (!writing || writing->strings == ArgumentWriting::Strings::kRaw) return true;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return absl::ascii_isalnum(c) || absl::StrContains("_.-", c); });
}

// Arguments are an object in every notation.
absl::StatusOr<std::string> ArgumentsSchema(const Json& function) {
  const auto at = function.find("parameters");
  Json schema = at == function.end() || at->is_null() ? Json::object() : *at;
  if (schema == true) schema = Json::object();
  if (!schema.is_object()) {
    return absl::InvalidArgumentError("its parameters are no JSON schema of an object");
  }
  if (schema.empty()) schema["properties"] = Json::object();
  const auto type = schema.find("type");
  if (type == schema.end()) {
    schema["type"] = "object";
  } else if (*type != "object") {
    return absl::InvalidArgumentError("its parameters are not of type object");
  }
  return Dump(schema);
}

}  // namespace

absl::StatusOr<std::string> CallConstraintText(const ResponseFormat& format,
                                               absl::string_view tools_json,
                                               absl::Span<const std::string> only_tools,
                                               bool only_one) {
  if (!format.writing) {
    return absl::InvalidArgumentError(
        absl::StrCat("required and named are not served for tool_format ", format.name,
                     ", for which there is no grammar; they are for ",
                     absl::StrJoin(WritableFormatNames(), ", "), "; use auto"));
  }
  if (tools_json.size() > kMaxToolsBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the tools have ", tools_json.size(),
                                                   " bytes, with required and named at most ",
                                                   kMaxToolsBytes));
  }
  const CallWriting& writing = *format.writing;
  const Json tools = Json::parse(tools_json.begin(), tools_json.end(), nullptr,
                                 /*allow_exceptions=*/false);
  Json calls = Json::array();
  for (const Json& outer : tools) {
    const Json& function = outer.contains("function") ? outer.at("function") : outer;
    const std::string& name = function.at("name").get_ref<const std::string&>();
    if (!only_tools.empty() &&
        std::find(only_tools.begin(), only_tools.end(), name) == only_tools.end()) {
      continue;
    }
    if (!IsSpelled(name, writing.arguments)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the name ", Quoted(name), " cannot be called: use letters, digits, _, - and . alone"));
    }
    absl::StatusOr<std::string> schema = ArgumentsSchema(function);
    if (!schema.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tool ", Quoted(name), ": ", schema.status().message()));
    }
    calls.push_back({{"begin", absl::StrReplaceAll(writing.begin, {{CallWriting::kName, name}})},
                     {"schema", *std::move(schema)},
                     {"end", writing.end}});
  }
  Json reasoning = nullptr;
  if (const ResponseRegion* const region = format.reasoning(); region != nullptr) {
    reasoning = {{"open", region->open.front()}, {"close", region->close.front()}};
  } else if (!format.written_reasoning_open.empty()) {
    reasoning = {{"open", format.written_reasoning_open},
                 {"close", format.written_reasoning_close}};
  }
  return Dump({{"reasoning", std::move(reasoning)},
               {"open", writing.open},
               {"between", writing.between},
               {"close", writing.close},
               {"calls", std::move(calls)},
               {"notation", Notation(writing.arguments)},
               {"only_one", only_one || writing.only_one}});
}

}  // namespace kvasir
