#include "server/http/responses_echo.h"

#include <algorithm>
#include <utility>

namespace kvasir {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

ordered_json Asked(const json& body, const char* name, ordered_json otherwise) {
  const auto found = body.find(name);
  if (found == body.end() || found->is_null()) return otherwise;
  return ordered_json(*found);
}

// `otherwise` with the members of the object in their place; what is no object is refused where it
// is read.
ordered_json Merged(const json& body, const char* name, ordered_json otherwise) {
  const auto found = body.find(name);
  if (found != body.end() && found->is_object()) otherwise.update(ordered_json(*found));
  return otherwise;
}

// In the form of responses, whichever they came in: the function's fields beside the type.
ordered_json Tools(const json& body) {
  ordered_json tools = ordered_json::array();
  const auto given = body.find("tools");
  if (given == body.end() || !given->is_array()) return tools;
  for (const json& tool : *given) {
    if (!tool.is_object()) continue;  // refused elsewhere
    const auto inner = tool.find("function");
    const json& function = inner != tool.end() && inner->is_object() ? *inner : tool;
    ordered_json flat = {{"type", "function"}};
    for (const char* key : {"name", "description", "parameters", "strict"}) {
      flat[key] = Asked(function, key, nullptr);
    }
    tools.push_back(std::move(flat));
  }
  return tools;
}

ordered_json ToolChoice(const json& body) {
  ordered_json choice = Asked(body, "tool_choice", "auto");
  if (choice.is_object() && choice.contains("function") && choice["function"].is_object()) {
    choice = {{"type", "function"}, {"name", choice["function"].value("name", "")}};
  }
  if (choice.is_object() && choice.contains("allowed_tools") &&
      choice["allowed_tools"].is_object()) {
    ordered_json flat = {{"type", "allowed_tools"}};
    flat.update(choice["allowed_tools"]);
    choice = std::move(flat);
  }
  return choice;
}

}  // namespace

ordered_json EchoResponsesRequest(const json& body, const JsonFields& fields) {
  fields.Object("metadata");
  const auto metadata = body.find("metadata");
  if (metadata != body.end() && metadata->is_object() &&
      !std::all_of(metadata->begin(), metadata->end(),
                   [](const json& value) { return value.is_string(); })) {
    fields.Fault("metadata", "must be an object of strings");
  }
  for (const char* name : {"user", "safety_identifier", "prompt_cache_key", "truncation"}) {
    fields.String(name);
  }

  ordered_json echo;
  echo["background"] = false;
  echo["instructions"] = Asked(body, "instructions", nullptr);
  echo["max_output_tokens"] = Asked(body, "max_output_tokens", nullptr);
  echo["max_tool_calls"] = nullptr;
  echo["metadata"] = Asked(body, "metadata", ordered_json::object());
  echo["parallel_tool_calls"] = Asked(body, "parallel_tool_calls", true);
  echo["previous_response_id"] = nullptr;
  echo["prompt_cache_key"] = Asked(body, "prompt_cache_key", nullptr);
  echo["reasoning"] = Merged(body, "reasoning", {{"effort", nullptr}, {"summary", nullptr}});
  echo["safety_identifier"] = Asked(body, "safety_identifier", nullptr);
  echo["service_tier"] = "default";
  echo["store"] = false;
  echo["temperature"] = Asked(body, "temperature", nullptr);
  echo["text"] = Merged(body, "text", {{"format", nullptr}});
  if (echo["text"]["format"].is_null()) echo["text"]["format"] = {{"type", "text"}};
  echo["tool_choice"] = ToolChoice(body);
  echo["tools"] = Tools(body);
  echo["top_logprobs"] = Asked(body, "top_logprobs", 0);
  echo["top_p"] = Asked(body, "top_p", nullptr);
  echo["truncation"] = "disabled";
  echo["user"] = Asked(body, "user", nullptr);
  return echo;
}

}  // namespace kvasir
