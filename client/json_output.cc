#include "client/json_output.h"

#include "client/call_error.h"
#include "client/message_json.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const std::vector<v1::TokenLogprob>& tokens) {
  Json list = Json::array();
  for (const v1::TokenLogprob& token : tokens) list.push_back(MessageToJson(token));
  return list;
}

Json ToJson(const GenerateResult::Output& output) {
  Json json = {{"text", output.text},
               {"token_ids", output.token_ids},
               {"finish_reason", EnumText(output.end.finish_reason())}};
  if (output.end.matched_stop_case() == v1::Completion::kStopString) {
    json["stop_string"] = output.end.stop_string();
  } else if (output.end.matched_stop_case() == v1::Completion::kStopTokenId) {
    json["stop_token_id"] = output.end.stop_token_id();
  }
  if (output.end.has_constraint_satisfied()) {
    json["constraint_satisfied"] = output.end.constraint_satisfied();
  }
  if (!output.reasoning.empty()) json["reasoning"] = output.reasoning;
  for (const v1::ToolCallDelta& call : output.tool_calls) {
    json["tool_calls"].push_back(
        {{"id", call.id()}, {"name", call.name()}, {"arguments", call.arguments()}});
  }
  if (!output.logprobs.empty()) json["logprobs"] = ToJson(output.logprobs);
  return json;
}

}  // namespace

Json ToJson(const GenerateResult& result) {
  Json json = result.outputs.empty() ? Json::object() : ToJson(result.outputs.front());
  json["usage"] = MessageToJson(result.usage);
  json["request_id"] = result.accepted.request_id();
  json["model"] = result.accepted.model();
  if (!result.prompt_logprobs.empty()) json["prompt_logprobs"] = ToJson(result.prompt_logprobs);
  if (result.outputs.size() > 1) {
    Json completions = Json::array();
    for (size_t i = 0; i < result.outputs.size(); ++i) {
      Json completion = {{"index", i}};
      completion.update(ToJson(result.outputs[i]));
      completions.push_back(std::move(completion));
    }
    json["completions"] = std::move(completions);
  }
  return json;
}

Json ToJson(const absl::Status& error) {
  Json body = {{"code", std::string(CodeName(error.code()))},
               {"message", std::string(error.message())}};
  Json violations = Json::array();
  for (const FieldViolation& violation : FieldViolations(error)) {
    violations.push_back({{"field", violation.field}, {"description", violation.description}});
  }
  if (!violations.empty()) body["violations"] = std::move(violations);
  if (const auto delay = RetryDelay(error))
    body["retry_after_seconds"] = absl::ToDoubleSeconds(*delay);
  return {{"error", std::move(body)}};
}

std::string DumpJson(const Json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace kvasir
