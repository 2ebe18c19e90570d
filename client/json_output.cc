#include "client/json_output.h"

#include <map>

#include "client/call_error.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const v1::TokenLogprob& token) {
  Json alternatives = Json::array();
  for (const v1::Alternative& alternative : token.alternatives()) {
    alternatives.push_back({{"token_id", alternative.token_id()},
                            {"text", alternative.text()},
                            {"logprob", alternative.logprob()}});
  }
  return {{"token_id", token.token_id()},
          {"text", token.text()},
          {"logprob", token.logprob()},
          {"alternatives", std::move(alternatives)}};
}

Json ToJson(const std::vector<v1::TokenLogprob>& tokens) {
  Json list = Json::array();
  for (const v1::TokenLogprob& token : tokens) list.push_back(ToJson(token));
  return list;
}

Json ToJson(const GenerateResult::Output& output) {
  Json json = {{"text", output.text},
               {"token_ids", output.token_ids},
               {"finish_reason", FinishReasonText(output.end.finish_reason())}};
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
  json["usage"] = ToJson(result.usage);
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

Json ToJson(const v1::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens()},
          {"cached_tokens", usage.cached_tokens()},
          {"completion_tokens", usage.completion_tokens()},
          {"kv_bytes_peak", usage.kv_bytes_peak()},
          {"kv_byte_seconds", usage.kv_byte_seconds()},
          {"kv_bytes_read", usage.kv_bytes_read()},
          {"kv_bytes_read_if_dense", usage.kv_bytes_read_if_dense()},
          {"state_bytes_peak", usage.state_bytes_peak()},
          {"state_bytes_read", usage.state_bytes_read()},
          {"sparse_tokens", usage.sparse_tokens()},
          {"drafted_tokens", usage.drafted_tokens()},
          {"accepted_tokens", usage.accepted_tokens()},
          {"queue_seconds", usage.queue_seconds()},
          {"time_to_first_token_seconds", usage.time_to_first_token_seconds()},
          {"total_seconds", usage.total_seconds()},
          {"preemptions", usage.preemptions()}};
}

Json ToJson(const v1::Model& model) {
  Json groups = Json::array();
  for (const v1::KvGroup& group : model.groups()) {
    groups.push_back(
        {{"layers", std::vector<int32_t>(group.layers().begin(), group.layers().end())},
         {"kind", group.kind()},
         {"window_tokens", group.window_tokens()},
         {"bytes_per_token", group.bytes_per_token()},
         {"read_bytes_per_token", group.read_bytes_per_token()},
         {"state_bytes_per_sequence", group.state_bytes_per_sequence()}});
  }
  return {
      {"name", model.name()},
      {"architecture", model.architecture()},
      {"sharing", model.sharing()},
      {"kv_bytes_per_token_resident", model.kv_bytes_per_token_resident()},
      {"kv_bytes_per_token_read", model.kv_bytes_per_token_read()},
      {"groups", std::move(groups)},
      {"kv_element_type", model.kv_element_type()},
      {"compute_type", model.compute_type()},
      {"context_tokens", model.context_tokens()},
      {"vocab_size", model.vocab_size()},
      {"hidden_size", model.hidden_size()},
      {"num_layers", model.num_layers()},
      {"num_query_heads", model.num_query_heads()},
      {"head_dim", model.head_dim()},
      {"kv_owner", std::vector<int32_t>(model.kv_owner().begin(), model.kv_owner().end())},
      {"kv_heads", std::vector<int32_t>(model.kv_heads().begin(), model.kv_heads().end())},
      {"parameters", model.parameters()},
      {"weight_bytes", model.weight_bytes()},
      {"weight_format_bytes", std::map<std::string, int64_t>(model.weight_format_bytes().begin(),
                                                             model.weight_format_bytes().end())},
      {"block_tokens", model.block_tokens()},
      {"kv_pool_bytes", model.kv_pool_bytes()},
      {"tool_format", model.tool_format()},
      {"eos_token_ids",
       std::vector<int32_t>(model.eos_token_ids().begin(), model.eos_token_ids().end())},
      {"speculation_modes", std::vector<std::string>(model.speculation_modes().begin(),
                                                     model.speculation_modes().end())},
      {"speculation_default", model.speculation_default()}};
}

Json ToJson(const v1::Session& session) {
  return {{"session_id", session.session_id()},
          {"model", session.model()},
          {"state", SessionStateText(session.state())},
          {"tokens", session.tokens()},
          {"turns", session.turns()},
          {"kv_bytes_physical", session.kv_bytes_physical()},
          {"kv_bytes_exclusive", session.kv_bytes_exclusive()},
          {"kv_bytes_proportional", session.kv_bytes_proportional()},
          {"state_bytes", session.state_bytes()},
          {"spilled_bytes", session.spilled_bytes()},
          {"idle_seconds", session.idle_seconds()},
          {"expires_in_seconds", session.expires_in_seconds()}};
}

Json ToJson(const v1::ModelStats& stats) {
  Json tenants = Json::array();
  for (const v1::TenantStats& tenant : stats.tenants()) {
    tenants.push_back({{"tenant", tenant.tenant()},
                       {"requests", tenant.requests()},
                       {"sessions", tenant.sessions()},
                       {"kv_bytes_physical", tenant.kv_bytes_physical()},
                       {"kv_bytes_exclusive", tenant.kv_bytes_exclusive()},
                       {"kv_bytes_proportional", tenant.kv_bytes_proportional()}});
  }
  return {{"model", stats.model()},
          {"running", stats.running()},
          {"waiting", stats.waiting()},
          {"sessions", stats.sessions()},
          {"sessions_busy", stats.sessions_busy()},
          {"sessions_spilled", stats.sessions_spilled()},
          {"kv_capacity_bytes", stats.kv_capacity_bytes()},
          {"kv_live_bytes", stats.kv_live_bytes()},
          {"kv_cached_bytes", stats.kv_cached_bytes()},
          {"kv_free_bytes", stats.kv_free_bytes()},
          {"kv_state_live_bytes", stats.kv_state_live_bytes()},
          {"kv_state_cached_bytes", stats.kv_state_cached_bytes()},
          {"kv_block_bytes", stats.kv_block_bytes()},
          {"block_tokens", stats.block_tokens()},
          {"prompt_tokens_total", stats.prompt_tokens_total()},
          {"cached_tokens_total", stats.cached_tokens_total()},
          {"generated_tokens_total", stats.generated_tokens_total()},
          {"preemptions_total", stats.preemptions_total()},
          {"steps_total", stats.steps_total()},
          {"kv_bytes_read_total", stats.kv_bytes_read_total()},
          {"tenants", std::move(tenants)}};
}

Json ToJson(const v1::RequestInfo& request) {
  return {{"request_id", request.request_id()},
          {"tenant", request.tenant()},
          {"model", request.model()},
          {"state", request.state()},
          {"prompt_tokens", request.prompt_tokens()},
          {"cached_tokens", request.cached_tokens()},
          {"computed_tokens", request.computed_tokens()},
          {"generated_tokens", request.generated_tokens()},
          {"kv_bytes_physical", request.kv_bytes_physical()},
          {"kv_bytes_exclusive", request.kv_bytes_exclusive()},
          {"kv_bytes_proportional", request.kv_bytes_proportional()},
          {"state_bytes", request.state_bytes()},
          {"age_seconds", request.age_seconds()},
          {"session_id", request.session_id()},
          {"priority", request.priority()}};
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

const char* SessionStateText(v1::SessionState state) {
  switch (state) {
    case v1::SESSION_STATE_BUSY:
      return "busy";
    case v1::SESSION_STATE_IDLE:
      return "idle";
    case v1::SESSION_STATE_SPILLED:
      return "spilled";
    case v1::SESSION_STATE_EVICTED:
      return "evicted";
    default:
      return "unspecified";
  }
}

std::string DumpJson(const Json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace kvasir
