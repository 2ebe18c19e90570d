#include "server/frontend/response/response_template.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/json_nesting.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace kvasir {
namespace {

using nlohmann::json;

constexpr int kMaxNesting = 64;
constexpr size_t kMaxLiterals = 16;

absl::Status Unsupported(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat("response_template: ", what));
}

// The literal pieces of a pattern, between what matches white space or a name; nothing when it has
// anything else.
std::optional<std::vector<std::string>> LiteralPieces(absl::string_view pattern) {
  std::vector<std::string> pieces(1);
  while (!pattern.empty()) {
    bool space = false;
    for (const absl::string_view each : {"\\s*", "\\s+", "\\n*", "\\n?"}) {
      space = space || absl::ConsumePrefix(&pattern, each);
    }
    if (space) {
      pieces.emplace_back();
      continue;
    }
    if (absl::StartsWith(pattern, "(?P<name>")) {
      const size_t end = pattern.find(')');
      if (end == absl::string_view::npos) return std::nullopt;
      pattern.remove_prefix(end + 1);
      pieces.emplace_back();
      continue;
    }
    if (absl::ConsumePrefix(&pattern, "\\n")) {
      pieces.back() += '\n';
      continue;
    }
    if (pattern[0] == '\\' && pattern.size() > 1 && !absl::ascii_isalnum(pattern[1])) {
      pattern.remove_prefix(1);
    } else if (absl::StrContains("\\()[]{}*+?|^$.", pattern[0])) {
      return std::nullopt;
    }
    pieces.back() += pattern[0];
    pattern.remove_prefix(1);
  }
  pieces.erase(std::remove(pieces.begin(), pieces.end(), ""), pieces.end());
  if (pieces.empty()) return std::nullopt;
  return pieces;
}

// `key` ("open", "close") as literals: the field itself, or the first piece of its pattern (the
// last of a closing one, for what stands before it belongs to the call's own notation).
absl::StatusOr<std::vector<std::string>> Literals(const json& field, const std::string& key) {
  std::vector<std::string> literals;
  if (const auto given = field.find(key); given != field.end()) {
    const json list = given->is_array() ? *given : json::array({*given});
    for (const json& each : list) {
      if (!each.is_string() || each.get_ref<const std::string&>().empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat("response_template: ", key, " must be text, or a list of texts"));
      }
      literals.push_back(each.get<std::string>());
    }
  } else if (const auto pattern = field.find(key + "_pattern"); pattern != field.end()) {
    if (!pattern->is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("response_template: ", key, "_pattern must be text"));
    }
    const auto pieces = LiteralPieces(pattern->get_ref<const std::string&>());
    if (!pieces) {
      return Unsupported(absl::StrCat(key, "_pattern ",
                                      Quoted(pattern->get_ref<const std::string&>()),
                                      " is more than literals and a name"));
    }
    literals.push_back(key == "open" ? pieces->front() : pieces->back());
  }
  if (literals.size() > kMaxLiterals) {
    return absl::InvalidArgumentError(
        absl::StrCat("response_template: ", literals.size(), " literals in ", key));
  }
  return literals;
}

std::string TextOf(const json& field, const char* key, std::string otherwise) {
  const auto at = field.find(key);
  return at != field.end() && at->is_string() ? at->get<std::string>() : otherwise;
}

// How a call stands in its region: by the content's parser, and what its patterns speak of.
absl::StatusOr<CallSyntax> SyntaxOf(const json& field, ResponseRegion* region) {
  const std::string content = TextOf(field, "content", "text");
  const json arguments = field.value("content_args", json::object());
  const std::string open_pattern = TextOf(field, "open_pattern", "");
  const bool named = absl::StrContains(open_pattern, "(?P<name>");
  if (content == "python-call-list") return CallSyntax::kPythonCalls;
  if (content == "json") {
    if (arguments.contains("string_delims") || arguments.contains("unquoted_keys")) {
      return CallSyntax::kLooseObject;
    }
    if (!named) return CallSyntax::kJson;
    const auto pieces = LiteralPieces(open_pattern);
    if (pieces && pieces->size() > 1) region->head_separator = pieces->back();
    return CallSyntax::kNamedJson;
  }
  if (content == "xml-inline") {
    const std::string tags = TextOf(arguments, "tag_pattern", "");
    if (absl::StrContains(tags, "<parameter=") && absl::StrContains(open_pattern, "<function=")) {
      return CallSyntax::kXmlParameters;
    }
    if (absl::StrContains(tags, "<arg_key>")) return CallSyntax::kArgPairs;
  }
  return Unsupported(absl::StrCat("tool_calls with the content ", Quoted(content)));
}

absl::Status AddField(const std::string& name, const json& field, ResponseFormat* format) {
  if (!field.is_object()) {
    return absl::InvalidArgumentError("response_template: a field must be an object");
  }
  KVASIR_ASSIGN_OR_RETURN(std::vector<std::string> open, Literals(field, "open"));
  KVASIR_ASSIGN_OR_RETURN(std::vector<std::string> close, Literals(field, "close"));
  const bool reasoning = name == "reasoning_content" || name == "reasoning" || name == "thinking";
  if (open.empty()) {
    // What stands outside of all regions; that it ends where the turn does, the engine knows.
    return name == "content" ? absl::OkStatus()
                             : Unsupported(absl::StrCat(Quoted(name), " has no opening literal"));
  }
  ResponseRegion region = {.open = std::move(open), .close = std::move(close)};
  if (reasoning) {
    region.part = ResponsePart::kReasoning;
  } else if (name == "tool_calls") {
    region.part = ResponsePart::kCalls;
    KVASIR_ASSIGN_OR_RETURN(region.syntax, SyntaxOf(field, &region));
    const bool by_bracket = region.syntax == CallSyntax::kJson ||
                            region.syntax == CallSyntax::kNamedJson ||
                            region.syntax == CallSyntax::kPythonCalls;
    if (region.close.empty() && !by_bracket) return Unsupported("tool_calls without close");
  } else {
    return Unsupported(absl::StrCat("the field ", Quoted(name)));
  }
  format->regions.push_back(std::move(region));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<ResponseFormat>> ReadResponseTemplate(
    absl::string_view tokenizer_config_json) {
  const std::optional<ResponseFormat> none;
  if (!absl::StrContains(tokenizer_config_json, "\"response_template\"") ||
      JsonNestingDepth(tokenizer_config_json) > kMaxNesting) {
    return none;
  }
  const json config = json::parse(tokenizer_config_json.begin(), tokenizer_config_json.end(),
                                  nullptr, /*allow_exceptions=*/false);
  if (!config.is_object() || !config.contains("response_template")) return none;
  const json& spec = config.at("response_template");
  if (!spec.is_object() || !spec.contains("fields") || !spec.at("fields").is_object()) {
    return absl::InvalidArgumentError("response_template: it is no object with fields");
  }
  if (spec.contains("version") && spec.at("version") != 1) {
    return Unsupported(absl::StrCat("version ", spec.at("version").dump()));
  }
  ResponseFormat format;
  format.name = "response_template";
  for (const auto& [name, field] : spec.at("fields").items()) {
    KVASIR_RETURN_IF_ERROR(AddField(name, field, &format));
  }
  if (!format.parses()) return Unsupported("no field is more than content");
  return format;
}

}  // namespace kvasir
