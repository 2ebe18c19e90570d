#include "server/frontend/response/response_format.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/quoted.h"

namespace kvasir {
namespace {

using Part = ResponsePart;
using Syntax = CallSyntax;

ResponseRegion Reasoning(std::string open, std::string close) {
  return {.part = Part::kReasoning, .open = {std::move(open)}, .close = {std::move(close)}};
}

ResponseRegion Calls(std::vector<std::string> open, std::vector<std::string> close, Syntax syntax) {
  return {
      .part = Part::kCalls, .open = std::move(open), .close = std::move(close), .syntax = syntax};
}

ResponseRegion Dropped(std::vector<std::string> markers) {
  return {.part = Part::kDropped, .open = std::move(markers)};
}

ResponseFormat Hermes() {
  return {.regions = {Calls({"<tool_call>"}, {"</tool_call>"}, Syntax::kJson)},
          .writing = CallWriting{.begin = "<tool_call>\n{\"name\": \"{}\", \"arguments\": ",
                                 .end = "}\n</tool_call>",
                                 .between = "\n"}};
}

// Lists of calls between two markers.
CallWriting ListWriting(std::string open, std::string close) {
  return {.open = std::move(open),
          .begin = "{\"name\": \"{}\", \"arguments\": ",
          .end = "}",
          .between = ", ",
          .close = std::move(close)};
}

ResponseFormat QwenCoder() {
  // These models often forget <tool_call>, after text above all.
  ResponseRegion bare = Calls({"<function="}, {"</function>"}, Syntax::kXmlParameters);
  bare.keep_open = bare.known_names_only = true;
  bare.tail.assign("</tool_call>");
  return {.regions = {Calls({"<tool_call>"}, {"</tool_call>"}, Syntax::kXmlParameters), bare},
          .writing = CallWriting{
              .begin = "<tool_call>\n<function={}>\n",
              .end = "</function>\n</tool_call>",
              .between = "\n",
              .arguments = ArgumentWriting{.before = "<parameter={}>\n",
                                           .after = "\n</parameter>\n",
                                           .forbidden = {"</parameter>", "</tool_call>"}}}};
}

ResponseFormat Glm() {
  return {
      .regions = {Calls({"<tool_call>"}, {"</tool_call>"}, Syntax::kArgPairs)},
      .body_markers = {"<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"},
      .writing =
          CallWriting{.begin = "<tool_call>{}\n",
                      .end = "</tool_call>",
                      .between = "\n",
                      .arguments = ArgumentWriting{.before = "<arg_key>{}</arg_key>\n<arg_value>",
                                                   .after = "</arg_value>\n",
                                                   .forbidden = {"</arg_value>", "</tool_call>"}}},
  };
}

// A call is the whole answer, with <|python_tag|> before it or not.
ResponseFormat Llama() {
  ResponseRegion tagged = Calls({"<|python_tag|>"}, {}, Syntax::kJson);
  tagged.separator.assign(1, ';');
  ResponseRegion bare = Calls({"{"}, {}, Syntax::kJson);
  bare.separator.assign(1, ';');
  bare.at_start = bare.keep_open = bare.known_names_only = true;
  return {.regions = {tagged, bare},
          .writing = CallWriting{
              .begin = "{\"name\": \"{}\", \"parameters\": ", .end = "}", .between = "; "}};
}

// Calls as Python has them.
CallWriting PythonWriting(std::string open, std::string between, std::string close) {
  return {.open = std::move(open),
          .begin = "{}(",
          .end = ")",
          .between = std::move(between),
          .close = std::move(close),
          .arguments = ArgumentWriting{.before = "{}=",
                                       .after = "",
                                       .between = ", ",
                                       .strings = ArgumentWriting::Strings::kPython}};
}

// Gemma's, with its strings between two marks.
CallWriting LooseWriting(std::string open, std::string mark, std::string close) {
  return {.begin = open + "call:{}{",
          .end = "}" + close,
          .arguments = ArgumentWriting{.before = "{}:",
                                       .after = "",
                                       .between = ",",
                                       .strings = ArgumentWriting::Strings::kMarked,
                                       .mark = std::move(mark),
                                       .forbidden = {close}}};
}

ResponseFormat Pythonic() {
  ResponseRegion tagged = Calls({"<|python_tag|>", "<|python_start|>"}, {}, Syntax::kPythonCalls);
  ResponseRegion bare = Calls({"["}, {}, Syntax::kPythonCalls);
  bare.at_start = bare.keep_open = bare.known_names_only = true;
  return {.regions = {tagged, bare, Dropped({"<|python_end|>"})},
          .writing = PythonWriting("[", ", ", "]")};
}

// Both: [TOOL_CALLS] [{...}], and [TOOL_CALLS]f[ARGS]{...} of newer models.
ResponseFormat Mistral() {
  ResponseRegion calls = Calls({"[TOOL_CALLS]"}, {}, Syntax::kNamedJson);
  calls.head_separator = std::string("[ARGS]");
  return {.regions = {calls, Reasoning("[THINK]", "[/THINK]")},
          .body_markers = {"[ARGS]", "[CALL_ID]"},
          .writing = ListWriting("[TOOL_CALLS] [", "]"),
          .short_ids = true};
}

ResponseFormat GptOss() {
  ResponseRegion header = {
      .part = Part::kHeader, .open = {"<|channel|>", "<|start|>"}, .close = {"<|message|>"}};
  // The prompt ends in <|start|>assistant: a recipient may follow at once.
  ResponseRegion recipient = header;
  recipient.open = {" to=", "to="};
  recipient.at_start = recipient.keep_open = true;
  return {.regions = {header, recipient, Dropped({"<|end|>", "<|return|>", "<|call|>"})},
          .message = Calls({}, {"<|end|>", "<|return|>", "<|call|>"}, Syntax::kArguments),
          .body_markers = {"<|constrain|>"},
          // <|call|> ends the turn.
          .writing = CallWriting{.begin = "<|channel|>commentary to=functions.{} "
                                          "<|constrain|>json<|message|>",
                                 .end = "",
                                 .only_one = true},
          .written_reasoning_open = "<|channel|>analysis<|message|>",
          .written_reasoning_close = "<|end|><|start|>assistant"};
}

ResponseFormat Gemma4() {
  return {.regions = {Calls({"<|tool_call>"}, {"<tool_call|>"}, Syntax::kLooseObject),
                      Reasoning("<|channel>thought", "<channel|>")},
          .body_markers = {"<|\"|>"},
          .writing = LooseWriting("<|tool_call>", "<|\"|>", "<tool_call|>")};
}

ResponseFormat FunctionGemma() {
  return {
      .regions = {Calls({"<start_function_call>"}, {"<end_function_call>"}, Syntax::kLooseObject)},
      .body_markers = {"<escape>"},
      .writing = LooseWriting("<start_function_call>", "<escape>", "<end_function_call>")};
}

ResponseFormat Granite() {
  ResponseRegion bare = Calls({"["}, {}, Syntax::kJson);
  bare.at_start = bare.keep_open = bare.known_names_only = true;
  return {.regions = {Calls({"<|tool_call|>"}, {}, Syntax::kJson),
                      Calls({"<tool_call>"}, {"</tool_call>"}, Syntax::kJson), bare,
                      Dropped({"<response>", "</response>"})},
          .writing = ListWriting("<|tool_call|>[", "]")};
}

ResponseFormat Phi4Mini() {
  return {.regions = {Calls({"functools"}, {}, Syntax::kJson),
                      Calls({"<|tool_call|>"}, {"<|/tool_call|>"}, Syntax::kJson)},
          .writing = ListWriting("functools[", "]")};
}

ResponseFormat DeepSeek() {
  ResponseRegion call =
      Calls({"<｜tool▁call▁begin｜>"}, {"<｜tool▁call▁end｜>"}, Syntax::kNamedJson);
  call.head_separator = std::string("<｜tool▁sep｜>");
  call.tail = std::string("```");
  return {
      .regions = {call, Dropped({"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"})},
      .body_markers = {"<｜tool▁sep｜>"},
      .writing = CallWriting{.open = "<｜tool▁calls▁begin｜>",
                             .begin = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n",
                             .end = "\n```<｜tool▁call▁end｜>",
                             .between = "\n",
                             .close = "<｜tool▁calls▁end｜>"}};
}

ResponseFormat Lfm2() {
  return {.regions = {Calls({"<|tool_call_start|>"}, {"<|tool_call_end|>"}, Syntax::kPythonCalls)},
          .writing = PythonWriting("<|tool_call_start|>[", ", ", "]<|tool_call_end|>")};
}

ResponseFormat Olmo3() {
  return {.regions = {Calls({"<function_calls>"}, {"</function_calls>"}, Syntax::kPythonCalls)},
          .writing = PythonWriting("<function_calls>", "\n", "</function_calls>")};
}

ResponseFormat Hunyuan() {
  return {.regions = {Calls({"<tool_calls>"}, {"</tool_calls>"}, Syntax::kJson)},
          .writing = ListWriting("<tool_calls>[", "]</tool_calls>")};
}

ResponseFormat ThinkOnly() { return {}; }

// Markers any of which tell the family, the telling ones first: many templates speak of
// <tool_call>.
struct Family {
  const char* name;
  ResponseFormat (*make)();
  std::vector<std::string> telling;
};

const std::vector<Family>& Families() {
  static const auto* const kFamilies = new std::vector<Family>{
      {"gpt_oss", GptOss, {"<|channel|>"}},
      {"gemma4", Gemma4, {"<|tool_call>"}},
      {"function_gemma", FunctionGemma, {"<start_function_call>"}},
      {"deepseek", DeepSeek, {"<｜tool▁call▁begin｜>"}},
      {"glm", Glm, {"<arg_key>"}},
      {"qwen3_coder", QwenCoder, {"<function="}},
      {"lfm2", Lfm2, {"<|tool_call_start|>"}},
      {"mistral", Mistral, {"[TOOL_CALLS]"}},
      {"phi4_mini", Phi4Mini, {"functools", "<|/tool_call|>"}},
      {"granite", Granite, {"<|tool_call|>"}},
      {"hunyuan", Hunyuan, {"<tool_calls>"}},
      {"olmo3", Olmo3, {"<function_calls>"}},
      {"hermes", Hermes, {"<tool_call>"}},
      {"pythonic", Pythonic, {"<|python_start|>"}},
      {"llama3", Llama, {"<|python_tag|>"}},
      {"think", ThinkOnly, {}},
  };
  return *kFamilies;
}

}  // namespace

bool ResponseFormat::has_calls() const {
  return std::any_of(regions.begin(), regions.end(), [](const ResponseRegion& region) {
    return region.part == Part::kCalls || region.part == Part::kHeader;
  });
}

const ResponseRegion* ResponseFormat::reasoning() const {
  for (const ResponseRegion& region : regions) {
    if (region.part == Part::kReasoning) return &region;
  }
  return nullptr;
}

std::vector<std::string> ResponseFormat::Markers() const {
  std::vector<std::string> markers = body_markers;
  for (const ResponseRegion& region : regions) {
    markers.insert(markers.end(), region.open.begin(), region.open.end());
    markers.insert(markers.end(), region.close.begin(), region.close.end());
  }
  markers.insert(markers.end(), message.close.begin(), message.close.end());
  return markers;
}

std::vector<std::string> ResponseFormatNames() {
  std::vector<std::string> names;
  for (const Family& family : Families()) names.emplace_back(family.name);
  return names;
}

std::vector<std::string> WritableFormatNames() {
  std::vector<std::string> names;
  for (const Family& family : Families()) {
    if (family.make().writing) names.emplace_back(family.name);
  }
  return names;
}

void ChooseWriting(absl::string_view template_source, ResponseFormat* format) {
  if (format->name == "mistral" && absl::StrContains(template_source, "[ARGS]")) {
    format->writing = CallWriting{.begin = "[TOOL_CALLS]{}[ARGS]", .end = ""};
  }
  if (format->name == "deepseek" && !template_source.empty() &&
      !absl::StrContains(template_source, "```json")) {
    format->writing->begin = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>";
    format->writing->end = "<｜tool▁call▁end｜>";
    format->writing->between.clear();
  }
}

absl::StatusOr<ResponseFormat> MakeResponseFormat(absl::string_view name, bool reasoning) {
  if (name == "none") return ResponseFormat();
  for (const Family& family : Families()) {
    if (name != family.name) continue;
    ResponseFormat format = family.make();
    format.name = family.name;
    const bool has_own = format.reasoning() != nullptr || !format.message.close.empty();
    if ((reasoning || format.regions.empty()) && !has_own) {
      format.regions.push_back(Reasoning("<think>", "</think>"));
    }
    return format;
  }
  return absl::InvalidArgumentError(absl::StrCat(Quoted(name),
                                                 " is no tool format; use one of none, ",
                                                 absl::StrJoin(ResponseFormatNames(), ", ")));
}

ResponseFormat DetectResponseFormat(absl::string_view template_source,
                                    const std::function<bool(absl::string_view)>& in_vocabulary,
                                    absl::string_view architecture) {
  const bool reasoning = absl::StrContains(template_source, "</think>");
  const auto make = [&](const char* name) {
    return *MakeResponseFormat(name, reasoning);  // our own name
  };
  if (template_source.empty()) return ResponseFormat();
  for (const Family& family : Families()) {
    for (const std::string& marker : family.telling) {
      if (absl::StrContains(template_source, marker)) return make(family.name);
    }
  }
  // A template that shows tools and leaves the calls' notation to what the model has learnt.
  if (absl::StrContains(template_source, "tools") || absl::StrContains(template_source, "tool_")) {
    if (absl::StartsWithIgnoreCase(architecture, "llama4")) return make("pythonic");
    for (const Family& family : Families()) {
      for (const std::string& marker : family.telling) {
        if (in_vocabulary(marker)) return make(family.name);
      }
    }
    if (absl::StrContains(template_source, "<|start_header_id|>")) return make("llama3");
  }
  return reasoning ? make("think") : ResponseFormat();
}

}  // namespace kvasir
