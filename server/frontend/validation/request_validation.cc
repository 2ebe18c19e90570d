#include "server/frontend/validation/request_validation.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/engine/context_limit.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/tokenizer/utf8.h"
#include "server/frontend/request_id.h"
#include "server/frontend/validation/attention_validation.h"
#include "server/frontend/validation/cache_salt_validation.h"
#include "server/frontend/validation/constraint_validation.h"
#include "server/frontend/validation/field_violations.h"
#include "server/frontend/validation/reading_validation.h"
#include "server/frontend/validation/speculation_validation.h"

namespace kvasir {
namespace {

// Bytes of text per token for admission's guess: what byte-pair vocabularies reach on English
// prose. It errs on the high side of memory for other text, which the engine corrects when it knows
// the ids.
constexpr int64_t kBytesPerTokenGuess = 4;

std::string Indexed(absl::string_view field, int64_t index) {
  return absl::StrCat(field, "[", index, "]");
}

bool IsSessionId(absl::string_view id) {
  return !id.empty() && id.size() <= kMaxSessionIdBytes &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

std::string SessionIdViolation(absl::string_view id) {
  return absl::StrCat(Quoted(id), " (", id.size(), " bytes) is not a session id; use 1 to ",
                      kMaxSessionIdBytes, " characters of [A-Za-z0-9._-]");
}

std::optional<std::string> TooLong(int64_t prompt_tokens, const ModelLimits& limits) {
  return ContextViolation(/*history_tokens=*/0, prompt_tokens, limits.max_context_tokens);
}

uint64_t RandomSeed() {
  thread_local absl::BitGen random;
  return absl::Uniform<uint64_t>(random);
}

void CheckIdentity(const v1::GenerateRequest& message, absl::string_view metadata_request_id,
                   GenerationRequest* request, Violations* violations) {
  const bool has_field = !message.request_id().empty();
  const absl::string_view id = has_field ? message.request_id() : metadata_request_id;
  if (id.empty()) {
    request->id = NewRequestId();
  } else if (IsRequestId(id)) {
    request->id = std::string(id);
  } else {
    violations->Add(
        has_field ? "request_id" : kRequestIdKey,
        absl::StrCat(Quoted(id), " (", id.size(), " bytes) is not a request id; use 1 to ",
                     kMaxRequestIdBytes, " printable ASCII characters without blanks"));
  }

  if (message.has_priority()) {
    violations->CheckRange("priority", message.priority(), -kMaxAbsolutePriority,
                           kMaxAbsolutePriority, "larger is served first");
    request->priority = message.priority();
  }
}

void CheckSession(const v1::GenerateRequest& message, GenerationRequest* request,
                  Violations* violations) {
  if (!v1::SessionInput_IsValid(message.session_input())) {
    violations->Add("session_input",
                    absl::StrCat(static_cast<int>(message.session_input()),
                                 " is none of its values; use SESSION_INPUT_CONTINUATION (1) or "
                                 "SESSION_INPUT_FULL_HISTORY (2)"));
  }
  if (!message.has_session_id()) return;
  if (!IsSessionId(message.session_id())) {
    violations->Add("session_id", SessionIdViolation(message.session_id()));
  }
  if (request->n > 1) {
    violations->Add("sampling.n",
                    absl::StrCat(request->n,
                                 " completions cannot continue one session, the limit "
                                 "with session_id is 1; leave out n or session_id"));
  }
  request->session_id = message.session_id();
  request->session_full_history = message.session_input() == v1::SESSION_INPUT_FULL_HISTORY;
}

void CheckLogitBias(const v1::Sampling& sampling, int vocab_size, SamplingParams* params,
                    Violations* violations) {
  constexpr char kField[] = "sampling.logit_bias";
  if (!violations->CheckCount(kField, sampling.logit_bias_size(), kMaxLogitBiasEntries,
                              "entries")) {
    return;
  }
  for (const auto& [id, bias] : sampling.logit_bias()) params->logit_bias.emplace_back(id, bias);
  // A map's order changes from run to run; the same request must give the same messages and tokens.
  std::sort(params->logit_bias.begin(), params->logit_bias.end());
  for (const auto& [id, bias] : params->logit_bias) {
    violations->CheckTokenId(Indexed(kField, id), id, vocab_size);
    violations->CheckRange(Indexed(kField, id), bias, -100.0f, 100.0f,
                           "-100 and 100 already forbid and force a token");
  }
}

void CheckSampling(const v1::Sampling& sampling, const ModelLimits& limits,
                   GenerationRequest* request, Violations* violations) {
  const ModelSpec& spec = *limits.spec;
  SamplingParams& params = request->sampling;

  params.temperature = spec.default_temperature.value_or(params.temperature);
  if (sampling.has_temperature()) {
    params.temperature = sampling.temperature();
    violations->CheckRange("sampling.temperature", params.temperature, 0.0f, 100.0f,
                           "0 is greedy, 1 leaves the model's distribution as it is");
  }
  params.top_p = spec.default_top_p.value_or(params.top_p);
  if (sampling.has_top_p()) {
    params.top_p = sampling.top_p();
    violations->CheckPositive("sampling.top_p", params.top_p, 1.0f, "1 keeps all tokens");
  }
  params.top_k = spec.default_top_k.value_or(params.top_k);
  if (sampling.has_top_k()) {
    params.top_k = sampling.top_k();
    if (params.top_k < 0) {
      violations->Add("sampling.top_k", absl::StrCat(params.top_k,
                                                     " is below the limit 0; "
                                                     "0 keeps all tokens"));
    }
  }
  params.min_p = spec.default_min_p.value_or(params.min_p);
  if (sampling.has_min_p()) {
    params.min_p = sampling.min_p();
    violations->CheckRange("sampling.min_p", params.min_p, 0.0f, 1.0f, "0 drops no token");
  }
  params.repetition_penalty = spec.default_repetition_penalty.value_or(params.repetition_penalty);
  if (sampling.has_repetition_penalty()) {
    params.repetition_penalty = sampling.repetition_penalty();
    violations->CheckPositive("sampling.repetition_penalty", params.repetition_penalty, 10.0f,
                              "1 is no penalty");
  }
  if (sampling.has_presence_penalty()) {
    params.presence_penalty = sampling.presence_penalty();
    violations->CheckRange("sampling.presence_penalty", params.presence_penalty, -2.0f, 2.0f,
                           "0 is no penalty");
  }
  if (sampling.has_frequency_penalty()) {
    params.frequency_penalty = sampling.frequency_penalty();
    violations->CheckRange("sampling.frequency_penalty", params.frequency_penalty, -2.0f, 2.0f,
                           "0 is no penalty");
  }
  CheckLogitBias(sampling, spec.vocab_size, &params, violations);
  params.seed = sampling.has_seed() ? sampling.seed() : RandomSeed();
  if (sampling.has_n()) {
    request->n = sampling.n();
    violations->CheckRange("sampling.n", request->n, 1,
                           std::min(kMaxCompletions, limits.max_running),
                           "send several requests for more; the prefix cache shares their prompt");
  }
}

void CheckStopping(v1::Stopping* stopping, const ModelLimits& limits, StoppingParams* params,
                   Violations* violations) {
  params->max_tokens = limits.default_max_tokens;
  if (stopping->has_max_tokens()) {
    params->max_tokens = stopping->max_tokens();
    if (params->max_tokens < 1) {
      violations->Add("stopping.max_tokens",
                      absl::StrCat(params->max_tokens,
                                   " is below the limit 1; leave it out for the "
                                   "default of ",
                                   limits.default_max_tokens));
    }
  }
  if (stopping->has_min_tokens()) {
    params->min_tokens = stopping->min_tokens();
    violations->CheckRange("stopping.min_tokens", params->min_tokens, 0,
                           std::max(params->max_tokens, 0),
                           "the upper limit is max_tokens; raise that or lower this");
  }

  constexpr char kStop[] = "stopping.stop";
  if (violations->CheckCount(kStop, stopping->stop_size(), kMaxStopStrings, "stop strings")) {
    for (int i = 0; i < stopping->stop_size(); ++i) {
      std::string& stop = *stopping->mutable_stop(i);
      if (stop.empty()) {
        violations->Add(Indexed(kStop, i),
                        absl::StrCat("0 bytes, the limits are 1 to ", kMaxStopStringBytes,
                                     "; an empty stop string would stop everything, leave it out"));
      } else if (stop.size() > kMaxStopStringBytes) {
        violations->Add(Indexed(kStop, i),
                        absl::StrCat(stop.size(), " bytes are too long, the limit is ",
                                     kMaxStopStringBytes, "; shorten it"));
      } else {
        violations->CheckUtf8(Indexed(kStop, i), stop);
      }
      params->stop.push_back(std::move(stop));
    }
  }

  constexpr char kStopIds[] = "stopping.stop_token_ids";
  if (violations->CheckCount(kStopIds, stopping->stop_token_ids_size(), kMaxStopTokenIds, "ids")) {
    for (int i = 0; i < stopping->stop_token_ids_size(); ++i) {
      violations->CheckTokenId(Indexed(kStopIds, i), stopping->stop_token_ids(i),
                               limits.spec->vocab_size);
      params->stop_token_ids.push_back(stopping->stop_token_ids(i));
    }
  }
  params->ignore_eos = stopping->ignore_eos();
}

void CheckOutput(const v1::Output& output, GenerationRequest* request, Violations* violations) {
  constexpr char kRemedy[] = "0 gives the chosen token's only; leave it out for none";
  if (output.has_logprobs()) {
    request->logprobs = output.logprobs();
    violations->CheckRange("output.logprobs", output.logprobs(), 0, kMaxLogprobs, kRemedy);
  }
  if (output.has_prompt_logprobs()) {
    request->prompt_logprobs = output.prompt_logprobs();
    violations->CheckRange("output.prompt_logprobs", output.prompt_logprobs(), 0, kMaxLogprobs,
                           kRemedy);
  }
  if (output.has_skip_special_tokens()) {
    request->skip_special_tokens = output.skip_special_tokens();
  }
}

void CheckTokenIdPrompt(const v1::TokenIds& token_ids, const ModelLimits& limits,
                        CheckedRequest* checked, Violations* violations) {
  const auto& ids = token_ids.ids();
  if (ids.empty()) {
    violations->Add("token_ids", "0 ids, at least 1 is needed; send the prompt's token ids");
    return;
  }
  // Looking at each id of a prompt that is too long anyway would be unbounded work.
  if (auto too_long = TooLong(ids.size(), limits)) {
    violations->Add("token_ids", *std::move(too_long));
    return;
  }
  const int vocab_size = limits.spec->vocab_size;
  const auto bad = std::find_if(ids.begin(), ids.end(),
                                [vocab_size](int32_t id) { return id < 0 || id >= vocab_size; });
  if (bad != ids.end()) {
    violations->CheckTokenId(Indexed("token_ids.ids", bad - ids.begin()), *bad, vocab_size);
    return;
  }
  checked->request.prompt.assign(ids.begin(), ids.end());
  checked->prompt_tokens_estimate = ids.size();
}

void CheckTextPrompt(v1::GenerateRequest* message, CheckedRequest* checked,
                     Violations* violations) {
  std::string& text = *message->mutable_text();
  if (text.empty()) {
    violations->Add("text",
                    "0 bytes, at least 1 is needed; an empty prompt gives the model nothing "
                    "to continue");
  } else if (text.size() > Tokenizer::kMaxTextBytes) {
    violations->Add("text", absl::StrCat(text.size(), " bytes are too long, the limit is ",
                                         Tokenizer::kMaxTextBytes, "; shorten it"));
  } else {
    violations->CheckUtf8("text", text);
  }
  CheckedRequest::Text& prompt = checked->text.emplace();
  prompt.utf8 = std::move(text);
  if (message->has_add_special_tokens()) {
    prompt.options.add_special_tokens = message->add_special_tokens();
  }
  prompt.options.parse_special_tokens = message->parse_special_tokens();
}

absl::Status NoChatTemplate() {
  return absl::UnimplementedError(
      "the model has no chat template, so it takes no messages; send the conversation as text, or "
      "start kvasird with --chat_template NAME=FILE");
}

// `json` in place, when it is JSON and begins like `first`.
absl::Status AppendJson(absl::string_view field, absl::string_view key, const std::string& json,
                        char first, std::string* out) {
  if (json.empty()) return absl::OkStatus();
  const absl::string_view stripped = absl::StripAsciiWhitespace(json);
  if (stripped.empty() || stripped[0] != first || !nlohmann::json::accept(json)) {
    return BadFieldError(field,
                         absl::StrCat("it is not a JSON ", first == '[' ? "array" : "object"));
  }
  absl::StrAppend(out, ",\"", key, "\":", json);
  return absl::OkStatus();
}

// How many of the first ids the tokenizer put there by itself: those with which the encoding of
// nothing begins too.
absl::StatusOr<int32_t> CountAutomaticPrefix(const std::vector<TokenId>& ids,
                                             const Tokenizer& tokenizer,
                                             const Tokenizer::EncodeOptions& options) {
  if (!options.add_special_tokens) return 0;
  KVASIR_ASSIGN_OR_RETURN(const std::vector<TokenId> automatic, tokenizer.Encode("", options));
  const auto [differs, unused] =
      std::mismatch(ids.begin(), ids.end(), automatic.begin(), automatic.end());
  return static_cast<int32_t>(differs - ids.begin());
}

}  // namespace

absl::StatusOr<CheckedRequest> CheckGenerateRequest(v1::GenerateRequest message,
                                                    const ModelLimits& limits,
                                                    absl::string_view metadata_request_id) {
  CheckedRequest checked;
  GenerationRequest* request = &checked.request;
  Violations violations;

  CheckIdentity(message, metadata_request_id, request, &violations);
  CheckSampling(message.sampling(), limits, request, &violations);
  CheckSession(message, request, &violations);
  request->cache_salt = CheckCacheSalt(message.cache_salt(), &violations);
  CheckStopping(message.mutable_stopping(), limits, &request->stopping, &violations);
  checked.constraint = CheckConstraint(message.sampling(), message.stopping(), &violations);
  CheckOutput(message.output(), request, &violations);
  request->attention =
      CheckAttention(message.attention(), limits.attention,
                     {limits.spec->head_dim(), limits.max_context_tokens}, &violations);
  request->speculation = CheckSpeculation(message.speculation(), limits.speculation, &violations);
  switch (message.prompt_case()) {
    case v1::GenerateRequest::kText:
      CheckTextPrompt(&message, &checked, &violations);
      break;
    case v1::GenerateRequest::kTokenIds:
      CheckTokenIdPrompt(message.token_ids(), limits, &checked, &violations);
      break;
    case v1::GenerateRequest::kMessages:
      break;  // looked at below: a wrong field is the more useful answer
    case v1::GenerateRequest::PROMPT_NOT_SET:
      violations.Add("prompt",
                     "there is none, exactly 1 is needed; set text, token_ids or messages");
      break;
  }
  if (message.output().parse_response() && !message.has_messages()) {
    violations.Add("output.parse_response",
                   "true, but only answers to messages are parsed; send messages or leave it out");
  }
  KVASIR_RETURN_IF_ERROR(violations.status());

  if (message.prompt_case() == v1::GenerateRequest::kMessages) {
    if (limits.chat_template == nullptr) return NoChatTemplate();
    KVASIR_RETURN_IF_ERROR(CheckReading(limits, &message, &checked));
    KVASIR_ASSIGN_OR_RETURN(checked.conversation, ConversationJson(message.messages()));
    request->session_full_history = !request->session_id.empty();
    checked.prompt_tokens_estimate =
        1 + static_cast<int64_t>(checked.conversation->size()) / kBytesPerTokenGuess;
  }
  if (checked.text) {
    checked.prompt_tokens_estimate =
        1 + static_cast<int64_t>(checked.text->utf8.size()) / kBytesPerTokenGuess;
  }
  return checked;
}

absl::StatusOr<GenerationRequest> EncodePrompt(CheckedRequest checked, const Tokenizer& tokenizer,
                                               const ModelLimits& limits,
                                               std::unique_ptr<ResponseReader>* reader,
                                               std::function<bool()> cancelled) {
  GenerationRequest request = std::move(checked.request);
  const char* field = "text";
  if (checked.conversation) {
    field = "messages";
    KVASIR_ASSIGN_OR_RETURN(ChatTemplate::Prompt prompt,
                            RenderConversation(*checked.conversation, limits));
    if (checked.reading && reader != nullptr) {
      *reader = std::make_unique<ResponseReader>(
          limits.response_format, std::move(checked.reading->tools),
          BeginsInReasoning(*limits.response_format, prompt.text,
                            checked.reading->continues_message),
          request.n, checked.reading->at_most_one_call);
      request.visible_special_tokens.assign(limits.response_markers.begin(),
                                            limits.response_markers.end());
    }
    // The template writes the special tokens itself.
    checked.text = {.utf8 = std::move(prompt.text),
                    .options = {.add_special_tokens = false,
                                .parse_special_tokens = true,
                                .plain = std::move(prompt.plain)}};
  }
  if (!checked.text) return request;

  CheckedRequest::Text& text = *checked.text;
  text.options.cancelled = std::move(cancelled);
  absl::StatusOr<std::vector<TokenId>> ids = tokenizer.Encode(text.utf8, text.options);
  if (absl::IsInvalidArgument(ids.status())) return BadFieldError(field, ids.status().message());
  KVASIR_RETURN_IF_ERROR(ids.status());

  if (ids->empty()) {
    return BadFieldError(field, absl::StrCat("its ", text.utf8.size(),
                                             " bytes encode to 0 tokens, at "
                                             "least 1 is needed; send other text or token_ids"));
  }
  if (const auto too_long = TooLong(static_cast<int64_t>(ids->size()), limits)) {
    return BadFieldError(field, *too_long);
  }
  // A tokenizer may know more tokens than the model has embeddings for.
  const TokenId largest = *std::max_element(ids->begin(), ids->end());
  if (largest >= limits.spec->vocab_size) {
    return BadFieldError(
        field,
        absl::StrCat("it encodes to the token id ", largest, ", but the model's ids are 0 to ",
                     limits.spec->vocab_size - 1, "; leave out the text of that token"));
  }
  KVASIR_ASSIGN_OR_RETURN(request.automatic_prefix_tokens,
                          CountAutomaticPrefix(*ids, tokenizer, text.options));
  request.prompt = *std::move(ids);
  return request;
}

absl::StatusOr<std::string> ConversationJson(const v1::ChatMessages& messages) {
  std::string json = "{\"messages\":[";
  for (int i = 0; i < messages.messages_size(); ++i) {
    const v1::ChatMessage& message = messages.messages(i);
    const std::string field = Indexed("messages.messages", i);
    if (i > 0) json += ',';
    if (message.json().empty()) {
      // Strings of a proto3 message are valid UTF-8, or the message would not have been parsed.
      absl::StrAppend(&json, "{\"role\":", nlohmann::json(message.role()).dump(),
                      ",\"content\":", nlohmann::json(message.content()).dump(), "}");
      continue;
    }
    if (!message.role().empty() || !message.content().empty()) {
      return BadFieldError(field, "it has json beside role and content; leave those out");
    }
    if (!nlohmann::json::accept(message.json())) {
      return BadFieldError(field + ".json", "it is not a JSON object");
    }
    json += message.json();
  }
  json += ']';
  if (messages.tool_choice().mode() != v1::TOOL_CHOICE_MODE_NONE) {
    KVASIR_RETURN_IF_ERROR(
        AppendJson("messages.tools_json", "tools", messages.tools_json(), '[', &json));
  }
  KVASIR_RETURN_IF_ERROR(
      AppendJson("messages.documents_json", "documents", messages.documents_json(), '[', &json));
  KVASIR_RETURN_IF_ERROR(AppendJson("messages.template_kwargs_json", "kwargs",
                                    messages.template_kwargs_json(), '{', &json));
  const bool begin = messages.has_add_generation_prompt() ? messages.add_generation_prompt()
                                                          : !messages.continue_final_message();
  absl::StrAppend(
      &json, ",\"add_generation_prompt\":", begin ? "true" : "false",
      ",\"continue_final_message\":", messages.continue_final_message() ? "true" : "false");
  if (!messages.template_name().empty()) {
    absl::StrAppend(&json, ",\"chat_template\":", nlohmann::json(messages.template_name()).dump());
  }
  return json + "}";
}

absl::StatusOr<ChatTemplate::Prompt> RenderConversation(absl::string_view conversation,
                                                        const ModelLimits& limits) {
  if (limits.chat_template == nullptr) return NoChatTemplate();
  absl::StatusOr<ChatTemplate::Prompt> prompt = limits.chat_template->Render(
      conversation,
      limits.template_time.empty() ? LocalTimeText(absl::Now()) : limits.template_time);
  // Too much for a template's limits is a fault of this conversation, not of the moment.
  if (absl::IsInvalidArgument(prompt.status()) || absl::IsResourceExhausted(prompt.status())) {
    return BadFieldError("messages", prompt.status().message());
  }
  return prompt;
}

absl::Status CheckSessionId(absl::string_view field, absl::string_view id) {
  if (IsSessionId(id)) return absl::OkStatus();
  return BadFieldError(field, SessionIdViolation(id));
}

}  // namespace kvasir
