// Random tool calls with the values that break parsers, and how a format's models spell them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "server/frontend/response/response_format.h"
#include "server/frontend/response/tool_call.h"

namespace kvasir::testing {

inline constexpr char kOrderTools[] = R"([
  {"name": "order", "parameters": {"type": "object", "properties": {
    "text": {"type": "string"}, "more": {"type": "string"}, "count": {"type": "integer"},
    "share": {"type": "number"}, "exact": {"type": "boolean"}, "at": {"type": ["number", "null"]},
    "list": {"type": "array"}, "box": {"type": "object"}}}},
  {"name": "parse_json", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}},
  {"name": "list-all"}, {"name": "list_all"}])";

inline const ToolSchemas& OrderTools() {
  static const auto* const kParsed = new ToolSchemas(*ToolSchemas::FromJson(kOrderTools));
  return *kParsed;
}

// What breaks parsers: quotes, brackets, line breaks, what is not ASCII, and every family's
// markers.
inline const std::vector<std::string>& HardStrings() {
  static const auto* const kStrings = new std::vector<std::string>{
      "Oslo",
      "",
      " ",
      "\n",
      "two\nlines\n",
      "\n\nindented\n    more",
      "\"quoted\" and 'single'",
      "it's \\ a \\n back\\slash\\",
      "a } ] ) , : ; { [ (",
      "{\"name\": \"order\", \"arguments\": {}}",
      "\xC3\x85se \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80 \xE2\x80\xA8 \xC2\xA0",
      "tab\tbell\x07 nul-free",
      "<|im_end|> </s> <b>bold</b> &amp;",
      "</tool_call>",
      "<tool_call>{\"name\": \"order\"}</tool_call>",
      "</parameter>\n</function>",
      "<function=order>",
      "</arg_value><arg_key>",
      "[TOOL_CALLS]order[ARGS]{}",
      "<|call|><|end|><|channel|>final<|message|>",
      "<|\"|> <tool_call|> <escape> <end_function_call>",
      "<|tool_call|>[] <|/tool_call|> functools[",
      "\n```\xEF\xBD\x9C<\xEF\xBD\x9Ctool\xE2\x96\x81"
      "call\xE2\x96\x81"
      "end\xEF\xBD\x9C>",
      "<|tool_call_end|> </function_calls> </tool_calls> <|python_tag|>",
      "<think>no</think>",
      "null",
      "42",
      "True",
  };
  return *kStrings;
}

// Random calls that a format can spell. The same seed, the same calls.
class CallMaker {
 public:
  using Json = nlohmann::ordered_json;

  // `format` has a writing, and outlives the maker.
  CallMaker(const ResponseFormat& format, uint32_t seed) : format_(format), random_(seed) {}

  struct Call {
    std::string name;
    Json arguments = Json::object();
  };

  Call Make() {
    static constexpr const char* kNames[] = {"order", "parse_json", "list-all"};
    Call call;
    call.name = kNames[Below(3)];
    if (Python()) call.name = absl::StrReplaceAll(call.name, {{"-", "_"}});
    if (call.name[0] == 'l' || Below(6) == 0) return call;
    if (Below(4) != 0) call.arguments["text"] = String();
    if (call.name != "order") return call;
    if (Below(2) != 0) call.arguments["count"] = static_cast<int64_t>(Below(1u << 30)) - (1 << 29);
    if (Below(2) != 0) call.arguments["share"] = static_cast<double>(Below(1000)) / 7;
    if (Below(2) != 0) call.arguments["exact"] = Below(2) == 0;
    if (Below(2) != 0) call.arguments["at"] = Below(2) == 0 ? Json(nullptr) : Json(1.5);
    if (Below(2) != 0) call.arguments["list"] = Nested(0, true);
    if (Below(2) != 0) call.arguments["box"] = Nested(0, false);
    if (Below(2) != 0) call.arguments["more"] = String();
    return call;
  }

  // Between `begin` and `end` of the call.
  std::string Spelled(const Json& arguments) {
    if (!format_.writing->arguments) return Below(2) == 0 ? arguments.dump() : Spaced(arguments);
    const ArgumentWriting& writing = *format_.writing->arguments;
    std::string out;
    for (const auto& [key, value] : arguments.items()) {
      std::string spelled = value.dump();
      if (value.is_string() && writing.strings != ArgumentWriting::Strings::kPython) {
        spelled = absl::StrCat(writing.mark, value.get<std::string>(), writing.mark);
      } else if (Python() && value.is_boolean()) {
        spelled = value.get<bool>() ? "True" : "False";
      } else if (Python() && value.is_null()) {
        spelled = "None";
      }
      absl::StrAppend(&out, out.empty() ? "" : writing.between,
                      absl::StrReplaceAll(writing.before, {{ArgumentWriting::kName, key}}), spelled,
                      writing.after);
    }
    return out;
  }

  uint32_t Below(uint32_t limit) {
    return std::uniform_int_distribution<uint32_t>(0, limit - 1)(random_);
  }

 private:
  bool Python() const {
    return format_.writing->arguments &&
           format_.writing->arguments->strings == ArgumentWriting::Strings::kPython;
  }

  bool Marked() const {
    return format_.writing->arguments &&
           format_.writing->arguments->strings == ArgumentWriting::Strings::kMarked;
  }

  // As a template of Python has it.
  static std::string Spaced(const Json& json) { return json.dump(2, ' ', /*ensure_ascii=*/true); }

  // One that the notation can spell.
  std::string String() {
    while (true) {
      const std::string& candidate = HardStrings()[Below(HardStrings().size())];
      const auto& writing = format_.writing->arguments;
      if (!writing || writing->strings == ArgumentWriting::Strings::kPython) return candidate;
      const auto holds = [&](const std::string& marker) {
        return !marker.empty() && absl::StrContains(candidate, marker);
      };
      if (!holds(writing->mark) &&
          std::none_of(writing->forbidden.begin(), writing->forbidden.end(), holds)) {
        return candidate;
      }
    }
  }

  Json Nested(int depth, bool list) {
    Json out = list ? Json::array() : Json::object();
    const uint32_t items = Below(4);
    for (uint32_t i = 0; i < items; ++i) {
      Json value;
      switch (Below(depth < 2 ? 5 : 3)) {
        case 0:
          value = static_cast<int>(i) - 1;
          break;
        case 1:
          value = Marked() ? String() : HardStrings()[Below(HardStrings().size())];
          break;
        case 2:
          value = Below(2) == 0 ? Json(false) : Json(nullptr);
          break;
        default:
          value = Nested(depth + 1, Below(2) == 0);
      }
      if (list) {
        out.push_back(value);
      } else {
        out[absl::StrCat("k", i)] = value;
      }
    }
    return out;
  }

  const ResponseFormat& format_;
  std::mt19937 random_;
};

}  // namespace kvasir::testing
