#include "server/http/tokenize_pages.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "server/http/json_fields.h"
#include "server/http/openai_messages.h"

namespace kvasir {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

using Ids = google::protobuf::RepeatedField<int32_t>;

absl::StatusOr<Ids> IdsOfText(const Frontend& frontend, const JsonFields& fields,
                              const Caller& caller, const TextJob& job, Violations* violations) {
  v1::TokenizeRequest wanted;
  wanted.set_model(fields.String("model").value_or(""));
  std::optional<std::string> text = fields.String("prompt");
  if (!text) text = fields.String("content");  // llama.cpp's name
  if (!text) fields.Fault("prompt", "there is none; send the text as a string, or messages");
  if (const auto add = fields.Bool("add_special_tokens")) wanted.set_add_special_tokens(*add);
  if (const auto parse = fields.Bool("parse_special")) wanted.set_parse_special_tokens(*parse);
  KVASIR_RETURN_IF_ERROR(violations->status());
  wanted.set_text(*std::move(text));
  KVASIR_ASSIGN_OR_RETURN(v1::TokenizeResponse tokens, frontend.Tokenize(wanted, caller, job));
  return std::move(*tokens.mutable_token_ids());
}

absl::StatusOr<Ids> IdsOfMessages(const Frontend& frontend, const JsonFields& fields,
                                  absl::string_view body, const Caller& caller, const TextJob& job,
                                  Violations* violations) {
  v1::GenerateRequest chat;
  ReadConversation(fields, body, &chat, violations);
  if (fields.Find("prompt") != nullptr) {
    fields.Fault("prompt", "there are messages, too; send one of them");
  }
  for (const char* name : {"chat_template", "documents"}) {
    const json* const value = fields.Find(name);
    if (value == nullptr || value->empty() || *value == "") continue;
    fields.Fault(name, "is not supported by this server; leave it out");
  }
  v1::RenderChatRequest wanted;
  wanted.set_model(fields.String("model").value_or(""));
  KVASIR_RETURN_IF_ERROR(violations->status());
  *wanted.mutable_messages() = std::move(*chat.mutable_messages());
  KVASIR_ASSIGN_OR_RETURN(v1::RenderChatResponse rendered,
                          frontend.RenderChat(wanted, caller, job));
  return std::move(*rendered.mutable_token_ids());
}

}  // namespace

absl::StatusOr<ordered_json> Tokenize(const Frontend& frontend, const HttpRequest& request,
                                      const Caller& caller, const TextJob& job) {
  KVASIR_ASSIGN_OR_RETURN(const json body, ParseJsonObject(request.body));
  Violations violations;
  const JsonFields fields(body, "", &violations);
  const bool with_names = fields.Bool("return_token_strs").value_or(false);
  const bool is_chat = fields.Find("messages") != nullptr;
  KVASIR_ASSIGN_OR_RETURN(
      const Ids ids, is_chat
                         ? IdsOfMessages(frontend, fields, request.body, caller, job, &violations)
                         : IdsOfText(frontend, fields, caller, job, &violations));
  KVASIR_ASSIGN_OR_RETURN(
      const ServedModelRef served,
      frontend.environment().models->Find(fields.String("model").value_or(""), caller));
  ordered_json out;
  out["count"] = ids.size();
  out["max_model_len"] = served->engine->config().max_context_tokens;
  out["tokens"] = std::vector<int32_t>(ids.begin(), ids.end());
  if (with_names) {
    ordered_json& names = out["token_strs"] = ordered_json::array();
    for (const int32_t id : ids) names.push_back(std::string(served->tokenizer->IdToToken(id)));
  }
  return out;
}

absl::StatusOr<ordered_json> Detokenize(const Frontend& frontend, const HttpRequest& request,
                                        const Caller& caller, const TextJob&) {
  KVASIR_ASSIGN_OR_RETURN(const json body, ParseJsonObject(request.body));
  Violations violations;
  const JsonFields fields(body, "", &violations);
  v1::DetokenizeRequest wanted;
  wanted.set_model(fields.String("model").value_or(""));
  const json* tokens = fields.Find("tokens");
  const bool good = tokens != nullptr && tokens->is_array() &&
                    std::all_of(tokens->begin(), tokens->end(), [](const json& id) {
                      return id.is_number_unsigned() && id.get<uint64_t>() <= INT32_MAX;
                    });
  if (good) {
    for (const json& id : *tokens) wanted.add_token_ids(id.get<int32_t>());
  } else {
    fields.Fault("tokens", "must be a list of token ids");
  }
  KVASIR_RETURN_IF_ERROR(violations.status());
  KVASIR_ASSIGN_OR_RETURN(const v1::DetokenizeResponse text, frontend.Detokenize(wanted, caller));
  // vLLM's name for it, and llama.cpp's.
  return ordered_json({{"prompt", text.text()}, {"content", text.text()}});
}

}  // namespace kvasir
