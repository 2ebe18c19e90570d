#include "server/frontend/response/tool_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json_nesting.h"
#include "base/quoted.h"
#include "server/frontend/response/call_body.h"

namespace kvasir {
namespace {

constexpr int kMaxNesting = 128;

}  // namespace

absl::StatusOr<ToolSchemas> ToolSchemas::FromJson(absl::string_view tools_json) {
  using Json = nlohmann::json;  // sorted: a hostile list has half a million keys
  if (JsonNestingDepth(tools_json) > kMaxNesting) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tools nest deeper than ", kMaxNesting, " levels"));
  }
  const Json list = Json::parse(tools_json.begin(), tools_json.end(), nullptr,
                                /*allow_exceptions=*/false);
  if (!list.is_array()) return absl::InvalidArgumentError("the tools are no JSON array");
  if (list.size() > kMaxTools) {
    return absl::InvalidArgumentError(
        absl::StrCat(list.size(), " tools, the limit is ", kMaxTools));
  }
  ToolSchemas schemas;
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& outer = list[i];
    const Json& function =
        outer.is_object() && outer.contains("function") ? outer.at("function") : outer;
    if (!function.is_object() || !function.contains("name") || !function.at("name").is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("tool ", i, " has no function with a name"));
    }
    Tool tool;
    tool.name = function.at("name").get<std::string>();
    if (!IsToolName(tool.name) || schemas.Has(tool.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tool ", i, " is named ", Quoted(tool.name), ", which has ",
                       tool.name.size(), " bytes; names differ, have 1 to ", kMaxToolNameBytes,
                       " bytes, no white space and none of ", kNeverInToolNames));
    }
    const auto parameters = function.find("parameters");
    tool.parameters =
        parameters != function.end() && parameters->is_object() ? *parameters : Json::object();
    schemas.tools_.push_back(std::move(tool));
  }
  return schemas;
}

const ToolSchemas::Tool* ToolSchemas::Find(absl::string_view name) const {
  for (const Tool& tool : tools_) {
    if (tool.name == name) return &tool;
  }
  return nullptr;
}

ValueTypes ToolSchemas::Types(absl::string_view tool, absl::string_view parameter) const {
  const Tool* const found = Find(tool);
  if (found == nullptr) return {};
  const auto properties = found->parameters.find("properties");
  if (properties == found->parameters.end() || !properties->is_object()) return {};
  const auto at = properties->find(std::string(parameter));
  return at == properties->end() ? ValueTypes() : AllowedTypes(*at, found->parameters);
}

}  // namespace kvasir
