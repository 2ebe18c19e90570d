#include "server/http/openai_request.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "google/protobuf/util/json_util.h"
#include "server/frontend/validation/request_validation.h"
#include "server/http/json_fields.h"
#include "server/http/openai_constraint.h"
#include "server/http/openai_messages.h"
#include "server/http/responses_echo.h"

namespace kvasir {
namespace {

using nlohmann::json;

constexpr int32_t kDefaultCompletionTokens = 16;  // OpenAI's own
constexpr char kNotSupported[] = "is not supported by this server; leave it out";

// Fields that would change the answer, of OpenAI's API and of vLLM's.
constexpr const char* kUnsupported[] = {"suffix",
                                        "prompt_logprobs",
                                        "truncate_prompt_tokens",
                                        "allowed_token_ids",
                                        "bad_words",
                                        "documents",
                                        "chat_template",
                                        "echo_prompt",
                                        "thinking_token_budget",
                                        "use_beam_search",
                                        "length_penalty",
                                        "prompt_embeds",
                                        "input_embeds",
                                        "kv_transfer_params",
                                        "repetition_detection",
                                        "return_tokens_as_token_ids",
                                        "logits_processors"};

// --- what all three have in common ---

void ReadLogitBias(const JsonFields& fields, v1::Sampling* sampling) {
  const json* bias = fields.Find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) return fields.Fault("logit_bias", "must be an object of id: bias");
  if (bias->size() > kMaxLogitBiasEntries) {
    return fields.Fault("logit_bias", absl::StrCat(bias->size(), " entries, the limit is ",
                                                   kMaxLogitBiasEntries, "; send fewer"));
  }
  for (const auto& [key, value] : bias->items()) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || !value.is_number()) {
      return fields.Fault("logit_bias",
                          absl::StrCat("the entry ", Quoted(key), " is no token id with a number"));
    }
    (*sampling->mutable_logit_bias())[id] = value.get<float>();
  }
}

void ReadSampling(const JsonFields& fields, v1::GenerateRequest* request) {
  v1::Sampling* sampling = request->mutable_sampling();
  const auto number = [&](const char* name, auto set) {
    if (const auto value = fields.Number(name)) (sampling->*set)(static_cast<float>(*value));
  };
  number("temperature", &v1::Sampling::set_temperature);
  number("top_p", &v1::Sampling::set_top_p);
  number("min_p", &v1::Sampling::set_min_p);
  number("presence_penalty", &v1::Sampling::set_presence_penalty);
  number("frequency_penalty", &v1::Sampling::set_frequency_penalty);
  number("repetition_penalty", &v1::Sampling::set_repetition_penalty);
  // vLLM's -1 is our 0: all tokens.
  if (const auto top_k = fields.Int32("top_k")) sampling->set_top_k(*top_k == -1 ? 0 : *top_k);
  if (const auto seed = fields.Int64("seed")) sampling->set_seed(static_cast<uint64_t>(*seed));
  ReadLogitBias(fields, sampling);
}

void ReadStopping(const JsonFields& fields, v1::GenerateRequest* request) {
  v1::Stopping* stopping = request->mutable_stopping();
  if (const auto min = fields.Int32("min_tokens")) stopping->set_min_tokens(*min);
  if (const auto ignore = fields.Bool("ignore_eos")) stopping->set_ignore_eos(*ignore);

  if (const json* stop = fields.Find("stop")) {
    if (stop->is_string()) {
      stopping->add_stop(stop->get<std::string>());
    } else if (stop->is_array() && stop->size() <= size_t{kMaxStopStrings} &&
               std::all_of(stop->begin(), stop->end(),
                           [](const json& each) { return each.is_string(); })) {
      for (const json& each : *stop) stopping->add_stop(each.get<std::string>());
    } else {
      fields.Fault("stop", absl::StrCat("must be a string or a list of at most ", kMaxStopStrings));
    }
  }
  if (const json* ids = fields.Find("stop_token_ids")) {
    const bool good = ids->is_array() && ids->size() <= size_t{kMaxStopTokenIds} &&
                      std::all_of(ids->begin(), ids->end(), [](const json& id) {
                        return id.is_number_unsigned() &&
                               id.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
                      });
    if (!good) {
      return fields.Fault("stop_token_ids", absl::StrCat("must be a list of at most ",
                                                         kMaxStopTokenIds, " token ids"));
    }
    for (const json& id : *ids) stopping->add_stop_token_ids(id.get<int32_t>());
  }
}

// A session's turn in chat repeats the whole conversation, for that is what its clients send.
void ReadSession(const JsonFields& fields, absl::string_view header, bool full_history,
                 v1::GenerateRequest* request) {
  if (const auto id = fields.String("session_id")) {
    request->set_session_id(*id);
  } else if (!header.empty()) {
    request->set_session_id(std::string(header));
  }
  const std::string input =
      fields.String("session_input").value_or(full_history ? "full_history" : "continuation");
  if (input == "full_history") {
    request->set_session_input(v1::SESSION_INPUT_FULL_HISTORY);
  } else if (input == "continuation") {
    request->set_session_input(v1::SESSION_INPUT_CONTINUATION);
  } else {
    fields.Fault("session_input",
                 absl::StrCat("is ", Quoted(input), "; use continuation or full_history"));
  }
}

// Ours, in the JSON form of kvasir.v1.Attention.
void ReadAttention(const JsonFields& fields, v1::GenerateRequest* request) {
  const json* attention = fields.Find("attention");
  if (attention == nullptr) return;
  const auto parsed =
      google::protobuf::util::JsonStringToMessage(attention->dump(), request->mutable_attention());
  if (!parsed.ok()) {
    fields.Fault("attention",
                 absl::StrCat("is no kvasir.v1.Attention in JSON: ",
                              absl::string_view(parsed.message().data(), parsed.message().size())));
  }
}

void ReadCommon(const JsonFields& fields, absl::string_view text, absl::string_view session_header,
                bool chat, v1::GenerateRequest* request, OpenAiRequest* out) {
  request->set_model(fields.String("model").value_or(""));
  ReadSampling(fields, request);
  ReadStopping(fields, request);
  ReadSession(fields, session_header, chat, request);
  ReadAttention(fields, request);
  // vLLM serves the smaller number first, we the larger.
  if (const auto priority = fields.Int32("priority")) {
    request->set_priority(*priority == std::numeric_limits<int32_t>::min()
                              ? std::numeric_limits<int32_t>::max()
                              : -*priority);
  }
  if (const auto id = fields.String("request_id")) request->set_request_id(*id);
  if (const auto salt = fields.String("cache_salt")) request->set_cache_salt(*salt);
  // What OpenAI's models can do beside text. An empty object asks for a search, too.
  for (const char* name : {"audio", "web_search_options"}) {
    if (fields.Find(name) != nullptr) fields.Fault(name, kNotSupported);
  }
  if (const json* kinds = fields.Find("modalities");
      kinds != nullptr && *kinds != json::array({"text"})) {
    fields.Fault("modalities", "these models write text alone; send [\"text\"] or leave it out");
  }
  if (const auto skip = fields.Bool("skip_special_tokens")) {
    request->mutable_output()->set_skip_special_tokens(*skip);
  }

  AnswerOptions& answer = out->answer;
  answer.stream = fields.Bool("stream").value_or(false);
  if (const auto options = fields.Object("stream_options")) {
    answer.include_usage = options->Bool("include_usage").value_or(false);
    answer.continuous_usage = options->Bool("continuous_usage_stats").value_or(false);
  }
  answer.keep_stop_string = fields.Bool("include_stop_str_in_output").value_or(false);
  answer.token_ids = fields.Bool("return_token_ids").value_or(false);
  answer.include_reasoning = fields.Bool("include_reasoning").value_or(true);

  if (const auto n = fields.Int32("n")) {
    request->mutable_sampling()->set_n(*n);
    out->n = std::max(1, *n);
  }
  if (const auto best_of = fields.Int32("best_of"); best_of && *best_of != out->n) {
    fields.Fault("best_of", absl::StrCat(*best_of, " differs from n, which is ", out->n,
                                         "; ask for n completions and choose among them"));
  }
  for (const char* name : kUnsupported) {
    const json* value = fields.Find(name);
    if (value != nullptr && !AsksForNothing(*value)) fields.Fault(name, kNotSupported);
  }
  ReadConstraint(fields, text, request->mutable_sampling());
}

// Under the name that the body has for it.
void ReadMaxTokens(const JsonFields& fields, const char* name, v1::GenerateRequest* request) {
  const auto most = fields.Int32(name);
  if (!most) return;
  if (*most < 1) {
    return fields.Fault(name, absl::StrCat(*most,
                                           " is below the limit 1; leave it out for the "
                                           "model's default"));
  }
  request->mutable_stopping()->set_max_tokens(*most);
}

// The alternatives of each token.
int32_t ReadTopLogprobs(const JsonFields& fields) {
  const int32_t alternatives = fields.Int32("top_logprobs").value_or(0);
  if (alternatives >= 0 && alternatives <= kMaxLogprobs) return alternatives;
  fields.Fault("top_logprobs",
               absl::StrCat(alternatives, " is outside the range 0 to ", kMaxLogprobs));
  return 0;
}

// Token ids of a prompt; false when the array holds something else.
bool ReadTokenIds(const json& ids, v1::TokenIds* out) {
  out->mutable_ids()->Reserve(static_cast<int>(ids.size()));
  for (const json& id : ids) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
      return false;
    }
    out->add_ids(id.get<int32_t>());
  }
  return true;
}

// One prompt: text, or token ids.
bool ReadPrompt(const json& prompt, const v1::GenerateRequest& common, OpenAiRequest* out) {
  v1::GenerateRequest& request = out->prompts.emplace_back(common);
  if (prompt.is_string()) {
    request.set_text(prompt.get<std::string>());
    return true;
  }
  return prompt.is_array() && ReadTokenIds(prompt, request.mutable_token_ids());
}

void ReadPrompts(const JsonFields& fields, const v1::GenerateRequest& common, OpenAiRequest* out) {
  const json* prompt = fields.Find("prompt");
  if (prompt == nullptr) {
    return fields.Fault("prompt", "there is none; send a string, token ids, or a list of these");
  }
  bool good = true;
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    if (prompt->size() > kMaxPrompts) {
      return fields.Fault("prompt", absl::StrCat(prompt->size(), " prompts, the limit is ",
                                                 kMaxPrompts, "; send several requests"));
    }
    for (const json& each : *prompt) good = good && ReadPrompt(each, common, out);
  } else {
    good = ReadPrompt(*prompt, common, out);
  }
  if (!good) fields.Fault("prompt", "must be a string, a list of token ids, or a list of these");
  if (out->prompts.size() > 1 && !common.session_id().empty()) {
    fields.Fault("session_id", "a session's turn has one prompt");
  }
  // Every request of the list has an id of its own.
  if (out->prompts.size() > 1 && !common.request_id().empty()) {
    for (size_t i = 0; i < out->prompts.size(); ++i) {
      out->prompts[i].set_request_id(absl::StrCat(common.request_id(), "-", i));
    }
  }
}

// Asked for by `include`, or by a number of alternatives.
void ReadResponsesLogprobs(const JsonFields& fields, v1::GenerateRequest* request,
                           AnswerOptions* answer) {
  const int32_t alternatives = ReadTopLogprobs(fields);
  answer->logprobs = alternatives != 0;
  if (const json* include = fields.Find("include"); include != nullptr) {
    if (!include->is_array()) return fields.Fault("include", "must be a list of strings");
    // The others name what is nothing here (results of searches), or is in answers anyway.
    answer->logprobs |= std::find(include->begin(), include->end(),
                                  "message.output_text.logprobs") != include->end();
  }
  if (answer->logprobs) request->mutable_output()->set_logprobs(alternatives);
}

}  // namespace

absl::StatusOr<OpenAiRequest> ParseChatRequest(const json& body, absl::string_view session_header,
                                               absl::string_view text) {
  Violations violations;
  const JsonFields fields(body, "", &violations);
  OpenAiRequest out;
  v1::GenerateRequest& request = out.prompts.emplace_back();
  ReadCommon(fields, text, session_header, /*chat=*/true, &request, &out);
  ReadConversation(fields, text, &request, &violations);
  if (fields.Bool("echo").value_or(false)) fields.Fault("echo", kNotSupported);
  ReadMaxTokens(fields, "max_tokens", &request);
  ReadMaxTokens(fields, "max_completion_tokens", &request);  // its newer name, which wins
  out.answer.logprobs = fields.Bool("logprobs").value_or(false);
  const int32_t top_logprobs = ReadTopLogprobs(fields);
  if (out.answer.logprobs) {
    request.mutable_output()->set_logprobs(top_logprobs);
  } else if (top_logprobs != 0) {
    fields.Fault("top_logprobs", "needs logprobs: true");
  }
  if (absl::Status status = violations.status(); !status.ok()) return status;
  return out;
}

absl::StatusOr<OpenAiRequest> ParseCompletionRequest(const json& body,
                                                     absl::string_view session_header,
                                                     absl::string_view text) {
  Violations violations;
  const JsonFields fields(body, "", &violations);
  OpenAiRequest out;
  v1::GenerateRequest common;
  ReadCommon(fields, text, session_header, /*chat=*/false, &common, &out);
  if (const auto add = fields.Bool("add_special_tokens")) common.set_add_special_tokens(*add);
  out.answer.echo = fields.Bool("echo").value_or(false);
  const int32_t max_tokens = fields.Int32("max_tokens").value_or(kDefaultCompletionTokens);
  out.answer.drop_output = max_tokens == 0 && out.answer.echo;
  common.mutable_stopping()->set_max_tokens(out.answer.drop_output ? 1 : max_tokens);
  if (const auto logprobs = fields.Int32("logprobs")) {
    out.answer.logprobs = true;
    common.mutable_output()->set_logprobs(*logprobs);
    if (out.answer.echo) common.mutable_output()->set_prompt_logprobs(*logprobs);
  }
  ReadPrompts(fields, common, &out);
  if (absl::Status status = violations.status(); !status.ok()) return status;
  return out;
}

absl::StatusOr<OpenAiRequest> ParseResponsesRequest(const json& body,
                                                    absl::string_view session_header,
                                                    absl::string_view text) {
  Violations violations;
  const JsonFields fields(body, "", &violations);
  OpenAiRequest out;
  v1::GenerateRequest& request = out.prompts.emplace_back();
  ReadCommon(fields, text, session_header, /*chat=*/true, &request, &out);
  ReadResponsesInput(fields, &request, &violations);
  ReadTools(fields, &request, &violations);
  ReadTemplateFields(fields, request.mutable_messages());
  ReadMaxTokens(fields, "max_output_tokens", &request);
  ReadResponsesLogprobs(fields, &request, &out.answer);
  for (const char* name : {"previous_response_id", "conversation", "prompt"}) {
    if (fields.Find(name) != nullptr) {
      fields.Fault(name, "nothing is stored here; send the whole conversation in input");
    }
  }
  if (fields.Bool("background").value_or(false)) fields.Fault("background", kNotSupported);
  if (out.n != 1) fields.Fault("n", "a response has one output");
  out.echo = EchoResponsesRequest(body, fields);
  if (absl::Status status = violations.status(); !status.ok()) return status;
  return out;
}

}  // namespace kvasir
