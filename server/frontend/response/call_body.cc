#include "server/frontend/response/call_body.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/frontend/response/call_scanner.h"
#include "server/frontend/response/json_text.h"
#include "server/frontend/response/loose_value.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;
using Calls = std::vector<ToolCall>;

std::optional<Json> ParseJson(absl::string_view text) {
  return ParseExactJson(text, LooseReader::kMaxDepth);
}

// Arguments as an object, or as a string that holds one; none at all are no arguments.
std::optional<std::string> ArgumentsText(const Json* arguments) {
  if (arguments == nullptr || arguments->is_null()) return "{}";
  if (arguments->is_object()) return JsonText(*arguments);
  if (!arguments->is_string()) return std::nullopt;
  const std::string& text = arguments->get_ref<const std::string&>();
  if (absl::StripAsciiWhitespace(text).empty()) return "{}";
  const std::optional<Json> inner = ParseJson(text);
  if (!inner || !inner->is_object()) return std::nullopt;
  return JsonText(*inner);
}

const Json* Member(const Json& object, const char* key) {
  const auto at = object.find(key);
  return at == object.end() ? nullptr : &*at;
}

bool ReadJsonCall(const Json& json, Calls* calls) {
  if (!json.is_object()) return false;
  const Json* const inner = Member(json, "function");
  const Json& call = inner != nullptr && inner->is_object() ? *inner : json;
  const Json* name = Member(call, "name");
  if (name == nullptr && inner != nullptr && inner->is_string()) name = inner;
  if (name == nullptr || !name->is_string() || !IsToolName(name->get_ref<const std::string&>())) {
    return false;
  }
  const Json* arguments = Member(call, "arguments");
  if (arguments == nullptr) arguments = Member(call, "parameters");
  std::optional<std::string> text = ArgumentsText(arguments);
  if (!text) return false;
  const Json* id = Member(json, "id");
  if (id == nullptr) id = Member(json, "call_id");
  calls->push_back({id != nullptr && id->is_string() ? id->get<std::string>() : std::string(),
                    name->get<std::string>(), *std::move(text)});
  return true;
}

// One object, several after each other with or without `separator`, or lists of them.
bool ReadJson(const ResponseRegion& region, absl::string_view body, Calls* calls) {
  body = absl::StripAsciiWhitespace(body);
  while (!body.empty()) {
    // The end of the first value: the scanner of the region, without its markers.
    ResponseRegion one = {.part = ResponsePart::kCalls, .open = region.open};
    CallScanner scanner(&one);
    if (scanner.Advance(body, /*at_end=*/true) != CallScanner::Verdict::kEnd) return false;
    const std::optional<Json> json = ParseJson(body.substr(0, scanner.body_bytes()));
    if (!json) return false;
    if (json->is_array()) {
      for (const Json& each : *json) {
        if (!ReadJsonCall(each, calls)) return false;
      }
    } else if (!ReadJsonCall(*json, calls)) {
      return false;
    }
    body = absl::StripLeadingAsciiWhitespace(body.substr(scanner.body_bytes()));
    if (!region.separator.empty() && absl::ConsumePrefix(&body, region.separator)) {
      body = absl::StripLeadingAsciiWhitespace(body);
      if (body.empty()) return false;
    }
  }
  return !calls->empty();
}

bool ReadArguments(absl::string_view name, absl::string_view body, std::string id, Calls* calls) {
  if (absl::StripAsciiWhitespace(body).empty()) body = "{}";
  const std::optional<Json> arguments = ParseJson(body);
  if (!arguments || !arguments->is_object() || !IsToolName(name)) return false;
  calls->push_back({std::move(id), std::string(name), JsonText(*arguments)});
  return true;
}

// Before the object: NAME[ARGS], NAME[CALL_ID]ID[ARGS], function<sep>NAME and a code fence, or
// NAME<sep>.
bool ReadNamedJson(const ResponseRegion& region, absl::string_view body, Calls* calls) {
  body = absl::StripAsciiWhitespace(body);
  if (absl::StartsWith(body, "[")) return ReadJson(region, body, calls);
  const size_t brace = body.find('{');
  if (brace == absl::string_view::npos) return false;
  absl::string_view name = absl::StripAsciiWhitespace(body.substr(0, brace));
  absl::string_view id;
  const size_t separator = name.find(region.head_separator);
  if (separator != absl::string_view::npos) {
    absl::string_view after = name.substr(separator + region.head_separator.size());
    if (!absl::ConsumeSuffix(&after, "```json")) absl::ConsumeSuffix(&after, "```");
    after = absl::StripAsciiWhitespace(after);
    name = after.empty() ? absl::StripAsciiWhitespace(name.substr(0, separator)) : after;
  }
  constexpr absl::string_view kCallId = "[CALL_ID]";
  if (const size_t at = name.find(kCallId); at != absl::string_view::npos) {
    id = name.substr(at + kCallId.size());
    name = name.substr(0, at);
  }
  return ReadArguments(name, body.substr(brace), std::string(id), calls);
}

// A value that is written without quotes.
Json TypedValue(absl::string_view text, const ValueTypes& types) {
  const absl::string_view stripped = absl::StripAsciiWhitespace(text);
  const auto as_text = [&] { return Json(std::string(text)); };
  if (types.null && (stripped == "null" || stripped == "None")) return nullptr;
  if (types.string) return as_text();
  if (types.boolean) {
    if (absl::EqualsIgnoreCase(stripped, "true")) return true;
    if (absl::EqualsIgnoreCase(stripped, "false")) return false;
  }
  std::optional<Json> json = ParseJson(stripped);
  if (!json) {
    // Lists and objects as Python prints them.
    LooseReader reader(stripped);
    if (types.any()) json = reader.Value();
    if (!json || !reader.AtEnd()) return as_text();
  }
  if (!types.any()) return *std::move(json);
  const bool whole =
      json->is_number_integer() ||
      (json->is_number_float() && std::trunc(json->get<double>()) == json->get<double>());
  if (json->is_number() && types.integer && whole) {
    constexpr double kExact = 9007199254740992.0;  // 2^53
    if (json->is_number_float() && std::abs(json->get<double>()) <= kExact) {
      return static_cast<int64_t>(json->get<double>());
    }
    return *std::move(json);
  }
  if (IsBigInteger(*json) && (types.integer || types.number)) return *std::move(json);
  if (json->is_number() && types.number) return *std::move(json);
  if (json->is_object() && types.object) return *std::move(json);
  if (json->is_array() && types.array) return *std::move(json);
  return as_text();
}

// The text before `end`, taken from `rest` with it.
std::optional<absl::string_view> TakeUntil(absl::string_view end, absl::string_view* rest) {
  const size_t at = rest->find(end);
  if (at == absl::string_view::npos) return std::nullopt;
  const absl::string_view before = rest->substr(0, at);
  rest->remove_prefix(at + end.size());
  return before;
}

// A value's text before `end`, taken from `rest` with it. JSON may have `end` in its strings;
// `*cut` when `rest` ends inside of one.
std::optional<absl::string_view> TakeValue(absl::string_view end, const ValueTypes& types,
                                           absl::string_view* rest, bool* cut) {
  const absl::string_view start = absl::StripLeadingAsciiWhitespace(*rest);
  if (!types.string && !start.empty() && absl::StrContains("{[\"", start[0])) {
    LooseReader reader(start);
    if (reader.Value() && reader.Take(end)) {
      const size_t bytes = rest->size() - reader.rest().size();
      const absl::string_view value = rest->substr(0, bytes - end.size());
      rest->remove_prefix(bytes);
      return value;
    }
    *cut = *cut || reader.cut();
    if (types.any() && reader.cut()) return std::nullopt;
  }
  return TakeUntil(end, rest);
}

// A value stands between two line breaks that are not part of it.
absl::string_view WithoutOuterLines(absl::string_view text) {
  absl::ConsumePrefix(&text, "\n");
  absl::ConsumeSuffix(&text, "\n");
  return text;
}

// `closed`: </function> has ended the body and is not in it.
bool ReadXml(absl::string_view body, bool closed, const ToolSchemas& tools, Calls* calls,
             bool* cut) {
  absl::string_view rest = absl::StripAsciiWhitespace(body);
  while (!rest.empty()) {
    if (!absl::ConsumePrefix(&rest, "<function=")) return false;
    const auto name = TakeUntil(">", &rest);
    if (!name || !IsToolName(*name)) return false;
    Json arguments = Json::object();
    while (true) {
      rest = absl::StripLeadingAsciiWhitespace(rest);
      if (absl::ConsumePrefix(&rest, "</function>") || (closed && rest.empty())) break;
      if (!absl::ConsumePrefix(&rest, "<parameter=")) return false;
      const auto key = TakeUntil(">", &rest);
      if (!key) return false;
      const ValueTypes types = tools.Types(*name, *key);
      const auto value = TakeValue("</parameter>", types, &rest, cut);
      if (!value) return false;
      arguments[std::string(*key)] = TypedValue(WithoutOuterLines(*value), types);
    }
    calls->push_back({"", std::string(*name), JsonText(arguments)});
    rest = absl::StripLeadingAsciiWhitespace(rest);
  }
  return !calls->empty();
}

bool ReadArgPairs(absl::string_view body, const ToolSchemas& tools, Calls* calls, bool* cut) {
  absl::string_view rest = absl::StripAsciiWhitespace(body);
  const size_t name_bytes = std::min(rest.find('\n'), rest.find("<arg_key>"));
  const absl::string_view name = absl::StripAsciiWhitespace(rest.substr(0, name_bytes));
  if (!IsToolName(name)) return false;
  rest.remove_prefix(std::min(rest.size(), name_bytes));
  Json arguments = Json::object();
  while (true) {
    rest = absl::StripLeadingAsciiWhitespace(rest);
    if (rest.empty()) break;
    if (!absl::ConsumePrefix(&rest, "<arg_key>")) return false;
    const auto key = TakeUntil("</arg_key>", &rest);
    rest = absl::StripLeadingAsciiWhitespace(rest);
    if (!key || !absl::ConsumePrefix(&rest, "<arg_value>")) return false;
    const absl::string_view stripped = absl::StripAsciiWhitespace(*key);
    const ValueTypes types = tools.Types(name, stripped);
    const auto value = TakeValue("</arg_value>", types, &rest, cut);
    if (!value) return false;
    // Unlike Qwen's, these stand between their markers as they are.
    arguments[std::string(stripped)] = TypedValue(*value, types);
  }
  calls->push_back({"", std::string(name), JsonText(arguments)});
  return true;
}

bool ReadLooseObject(LooseReader* reader, Calls* calls) {
  while (!reader->AtEnd()) {
    reader->Take(":");  // a slip that Gemma 4 makes
    reader->Take("call:");
    const std::optional<std::string> name = reader->Until('{');
    if (!name || !IsToolName(*name)) return false;
    std::optional<Json> arguments = reader->Value();
    if (!arguments || !arguments->is_object()) return false;
    calls->push_back({"", *name, JsonText(*arguments)});
  }
  return !calls->empty();
}

bool ReadPythonCalls(LooseReader* reader, Calls* calls) {
  const bool list = reader->Take("[");
  while (true) {
    if (list && reader->Take("]")) break;
    if (!list && reader->AtEnd()) break;
    std::optional<std::string> name = reader->Name();
    if (!name || !IsToolName(*name) || !reader->Take("(")) return false;
    Json arguments = Json::object();
    while (!reader->Take(")")) {
      if (!arguments.empty() && !reader->Take(",")) return false;
      const std::optional<std::string> key = reader->Name();
      if (!key || !reader->Take("=")) return false;
      std::optional<Json> value = reader->Value();
      if (!value) return false;
      arguments[*key] = *std::move(value);
    }
    calls->push_back({"", *std::move(name), JsonText(arguments)});
    reader->Take(",");
  }
  return !calls->empty() && reader->AtEnd();
}

}  // namespace

bool IsToolName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxToolNameBytes &&
         std::none_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isspace(c) || absl::ascii_iscntrl(c) ||
                  absl::StrContains(kNeverInToolNames, c);
         });
}

std::optional<std::vector<ToolCall>> ReadCalls(const ResponseRegion& region, absl::string_view body,
                                               absl::string_view header_name,
                                               const ToolSchemas& tools, bool* cut) {
  Calls calls;
  bool read = false;
  LooseReader reader(body);
  *cut = false;
  switch (region.syntax) {
    case CallSyntax::kJson:
      read = ReadJson(region, body, &calls);
      break;
    case CallSyntax::kNamedJson:
      read = ReadNamedJson(region, body, &calls);
      break;
    case CallSyntax::kArguments:
      read = ReadArguments(header_name, body, "", &calls);
      break;
    case CallSyntax::kXmlParameters:
      read = ReadXml(body, region.keep_open, tools, &calls, cut);
      break;
    case CallSyntax::kArgPairs:
      read = ReadArgPairs(body, tools, &calls, cut);
      break;
    case CallSyntax::kLooseObject:
      read = ReadLooseObject(&reader, &calls);
      *cut = reader.cut();
      break;
    case CallSyntax::kPythonCalls:
      read = ReadPythonCalls(&reader, &calls);
      *cut = reader.cut();
      break;
  }
  if (!read) return std::nullopt;
  if (region.known_names_only &&
      !std::all_of(calls.begin(), calls.end(),
                   [&](const ToolCall& call) { return tools.Has(call.name); })) {
    return std::nullopt;
  }
  return calls;
}

}  // namespace kvasir
