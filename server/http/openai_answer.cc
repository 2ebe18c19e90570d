#include "server/http/openai_answer.h"

#include <algorithm>
#include <set>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "runtime/tokenizer/utf8.h"
#include "server/http/openai_errors.h"
#include "server/http/responses_answer.h"

namespace kvasir {

OpenAiAnswer::OpenAiAnswer(AnswerIdentity identity, const Tokenizer* tokenizer)
    : identity_(std::move(identity)), tokenizer_(tokenizer) {}

std::string OpenAiAnswer::Failed(const absl::Status& status, absl::string_view request_id) {
  return absl::StrCat("data: ", ErrorJson(status, request_id), "\n\n");
}

std::string OpenAiAnswer::Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string OpenAiAnswer::Event(const Json& json) {
  return absl::StrCat("data: ", Dump(json), "\n\n");
}

const char* OpenAiAnswer::FinishReasonOf(const CompletionResult& result) {
  switch (result.reason) {
    case FinishReason::kLength:
    case FinishReason::kContextFull:
      return "length";
    case FinishReason::kToolCalls:
      return "tool_calls";
    default:
      return "stop";
  }
}

void OpenAiAnswer::AddUsage(const OutputFinished& finished) {
  const RequestUsage& usage = finished.usage;
  reasoning_tokens_ += finished.reasoning_tokens;
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  usage_.completion_tokens += usage.completion_tokens;
  usage_.kv_bytes_peak += usage.kv_bytes_peak;
  usage_.kv_byte_seconds += usage.kv_byte_seconds;
  usage_.kv_bytes_read += usage.kv_bytes_read;
  usage_.kv_bytes_read_if_dense += usage.kv_bytes_read_if_dense;
  usage_.queue_time = std::max(usage_.queue_time, usage.queue_time);
  usage_.time_to_first_token = std::max(usage_.time_to_first_token, usage.time_to_first_token);
  usage_.total_time = std::max(usage_.total_time, usage.total_time);
}

OpenAiAnswer::Json OpenAiAnswer::UsageJson() const {
  const auto milliseconds = [](absl::Duration time) { return absl::ToDoubleMilliseconds(time); };
  Json usage;
  usage["prompt_tokens"] = usage_.prompt_tokens;
  usage["completion_tokens"] = usage_.completion_tokens;
  usage["total_tokens"] = usage_.prompt_tokens + usage_.completion_tokens;
  usage["prompt_tokens_details"]["cached_tokens"] = usage_.cached_tokens;
  usage["completion_tokens_details"]["reasoning_tokens"] = reasoning_tokens_;
  Json& account = usage["kvasir"];
  account["kv_bytes_peak"] = usage_.kv_bytes_peak;
  account["kv_byte_seconds"] = usage_.kv_byte_seconds;
  account["kv_bytes_read"] = usage_.kv_bytes_read;
  account["kv_bytes_read_if_dense"] = usage_.kv_bytes_read_if_dense;
  account["queue_ms"] = milliseconds(usage_.queue_time);
  account["ttft_ms"] = milliseconds(usage_.time_to_first_token);
  account["total_ms"] = milliseconds(usage_.total_time);
  return usage;
}

std::string OpenAiAnswer::TokenText(TokenId id) const {
  const absl::string_view bytes = tokenizer_->TokenBytes(id);
  if (!FindInvalidUtf8(bytes)) return std::string(bytes);
  // A piece of a character: as OpenAI writes it.
  std::string text = "bytes:";
  for (const char byte : bytes) {
    absl::StrAppend(&text, "\\x", absl::Hex(static_cast<uint8_t>(byte), absl::kZeroPad2));
  }
  return text;
}

OpenAiAnswer::Json OpenAiAnswer::ChatLogprobs(const std::vector<TokenLogprob>& tokens) const {
  const auto entry = [this](TokenId id, float logprob) {
    Json token;
    token["token"] = TokenText(id);
    token["logprob"] = logprob;
    Json& bytes = token["bytes"] = Json::array();
    for (const char byte : tokenizer_->TokenBytes(id)) bytes.push_back(static_cast<uint8_t>(byte));
    return token;
  };
  Json list = Json::array();
  for (const TokenLogprob& token : tokens) {
    Json chosen = entry(token.token, token.logprob);
    Json& top = chosen["top_logprobs"] = Json::array();
    for (const auto& [id, logprob] : token.alternatives) top.push_back(entry(id, logprob));
    list.push_back(std::move(chosen));
  }
  return list;
}

OpenAiAnswer::Json OpenAiAnswer::CompletionLogprobs(const std::vector<TokenLogprob>& tokens,
                                                    size_t* offset) const {
  Json texts = Json::array(), chosen = Json::array(), top = Json::array(), offsets = Json::array();
  for (const TokenLogprob& token : tokens) {
    const std::string text = TokenText(token.token);
    texts.push_back(text);
    chosen.push_back(token.logprob);
    offsets.push_back(*offset);
    // In characters, as Python counts them.
    *offset += static_cast<size_t>(std::count_if(
        text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
    Json alternatives = Json::object();
    for (const auto& [id, logprob] : token.alternatives) alternatives[TokenText(id)] = logprob;
    alternatives[text] = token.logprob;
    top.push_back(std::move(alternatives));
  }
  Json lists;
  lists["text_offset"] = std::move(offsets);
  lists["token_logprobs"] = std::move(chosen);
  lists["tokens"] = std::move(texts);
  lists["top_logprobs"] = std::move(top);
  return lists;
}

namespace {

// One choice while it grows.
struct Choice {
  std::string text;
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprob> logprobs;
  size_t offset = 0;  // characters before the next token
  CompletionResult result;
};

// Chat and completions, streamed or not.
class ChoicesAnswer final : public OpenAiAnswer {
 public:
  ChoicesAnswer(AnswerIdentity identity, const Tokenizer* tokenizer)
      : OpenAiAnswer(std::move(identity), tokenizer),
        choices_(static_cast<size_t>(identity_.num_prompts) * static_cast<size_t>(identity_.n)),
        prompt_logprobs_(static_cast<size_t>(identity_.num_prompts)) {}

  std::string OnEvent(int prompt, OutputEvent event) override {
    if (auto* piece = std::get_if<PromptLogprobsEvent>(&event)) {
      auto& all = prompt_logprobs_[static_cast<size_t>(prompt)];
      all.insert(all.end(), piece->tokens.begin(), piece->tokens.end());
      return "";
    }
    if (const auto* accepted = std::get_if<AcceptedEvent>(&event)) {
      told_.prompt_tokens += accepted->prompt_tokens;
      return "";
    }
    auto* delta = std::get_if<OutputDelta>(&event);
    if (delta == nullptr) return "";
    told_.completion_tokens += static_cast<int32_t>(delta->tokens.size());
    const int32_t index = Choice(prompt, delta->index);
    kvasir::Choice& choice = choices_[static_cast<size_t>(index)];
    if (!streams()) {
      Append(std::move(*delta), &choice);
      return "";
    }
    std::string out = Opening(prompt);
    if (identity_.options.drop_output) return out;
    if (delta->text.empty() && delta->reasoning.empty() && delta->tool_calls.empty() &&
        delta->logprobs.empty() && !(identity_.options.token_ids && !delta->tokens.empty())) {
      return out;  // held back: an unfinished character or a possible stop string
    }
    kvasir::Choice piece;
    piece.text = std::move(delta->text);
    piece.reasoning = std::move(delta->reasoning);
    piece.tool_calls = std::move(delta->tool_calls);
    piece.tokens = std::move(delta->tokens);
    piece.logprobs = std::move(delta->logprobs);
    return out + Chunk(index, piece, nullptr, &choice.offset);
  }

  std::string OnFinished(int prompt, OutputFinished event) override {
    AddUsage(event);
    std::string out;
    if (streams()) out = Opening(prompt);  // no token came: the prompt ended it
    for (CompletionResult& result : event.completions) {
      const int32_t index = Choice(prompt, result.index);
      kvasir::Choice& choice = choices_[static_cast<size_t>(index)];
      choice.result = std::move(result);
      kvasir::Choice last;
      last.result = choice.result;
      if (identity_.options.keep_stop_string) {
        (streams() ? last : choice).text += choice.result.stop_string;
      }
      if (streams()) out += Chunk(index, last, FinishReasonOf(choice.result), &choice.offset);
    }
    return out;
  }

  std::string Complete() override {
    if (streams()) {
      std::string out;
      if (identity_.options.include_usage) {
        Json chunk = Head();
        chunk["choices"] = Json::array();
        chunk["usage"] = UsageJson();
        out = Event(chunk);
      }
      return out + "data: [DONE]\n\n";
    }
    Json body = Head();
    Json& choices = body["choices"] = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) choices.push_back(WholeChoice(i));
    body["usage"] = UsageJson();
    return Dump(body);
  }

 private:
  bool chat() const { return identity_.form == AnswerForm::kChat; }

  static void Append(OutputDelta delta, kvasir::Choice* choice) {
    choice->text += delta.text;
    choice->reasoning += delta.reasoning;
    for (ToolCallDelta& call : delta.tool_calls) choice->tool_calls.push_back(std::move(call));
    choice->tokens.insert(choice->tokens.end(), delta.tokens.begin(), delta.tokens.end());
    choice->logprobs.insert(choice->logprobs.end(), std::make_move_iterator(delta.logprobs.begin()),
                            std::make_move_iterator(delta.logprobs.end()));
  }

  Json Head() const {
    const char* object = !chat()     ? "text_completion"
                         : streams() ? "chat.completion.chunk"
                                     : "chat.completion";
    Json head;
    head["id"] = identity_.id;
    head["object"] = object;
    head["created"] = identity_.created;
    head["model"] = identity_.model;
    return head;
  }

  // What stands before the first text of a prompt's choices: the role, or the echoed prompt.
  std::string Opening(int prompt) {
    if (!opened_.insert(prompt).second) return "";
    std::string out;
    for (int32_t i = 0; i < identity_.n; ++i) {
      const int32_t index = Choice(prompt, i);
      if (chat()) {
        Json chunk = Head();
        Json choice;
        choice["index"] = index;
        choice["delta"] = {{"role", "assistant"}, {"content", ""}};
        choice["logprobs"] = nullptr;
        choice["finish_reason"] = nullptr;
        chunk["choices"] = Json::array({std::move(choice)});
        out += WithUsage(std::move(chunk));
      } else if (identity_.options.echo) {
        kvasir::Choice echoed;
        echoed.text = identity_.prompt_texts[static_cast<size_t>(prompt)];
        echoed.logprobs = EchoLogprobs(prompt);
        out += Chunk(index, echoed, nullptr, &choices_[static_cast<size_t>(index)].offset);
      }
    }
    return out;
  }

  // The prompt's tokens; the first has no probability.
  std::vector<TokenLogprob> EchoLogprobs(int prompt) const {
    std::vector<TokenLogprob> all;
    const auto& tokens = identity_.prompt_tokens;
    if (!identity_.options.logprobs || tokens.empty()) return all;
    if (!tokens[static_cast<size_t>(prompt)].empty()) {
      all.push_back({tokens[static_cast<size_t>(prompt)].front(), 0, {}});
    }
    const auto& rest = prompt_logprobs_[static_cast<size_t>(prompt)];
    all.insert(all.end(), rest.begin(), rest.end());
    return all;
  }

  Json LogprobsJson(const std::vector<TokenLogprob>& tokens, bool first_has_none,
                    size_t* offset) const {
    if (!identity_.options.logprobs || tokens.empty()) return nullptr;
    Json logprobs;
    if (chat()) {
      logprobs["content"] = ChatLogprobs(tokens);
      logprobs["refusal"] = nullptr;
      return logprobs;
    }
    logprobs = CompletionLogprobs(tokens, offset);
    if (first_has_none) {
      logprobs["token_logprobs"][0] = nullptr;
      logprobs["top_logprobs"][0] = nullptr;
    }
    return logprobs;
  }

  std::string Chunk(int32_t index, const kvasir::Choice& piece, const char* finish_reason,
                    size_t* offset) const {
    Json choice;
    choice["index"] = index;
    const bool is_start = *offset == 0 && identity_.options.echo;
    if (chat()) {
      Json& delta = choice["delta"] = Json::object();
      AddReasoning(piece.reasoning, &delta);
      const bool other = !piece.reasoning.empty() || !piece.tool_calls.empty();
      if (!piece.text.empty() || (finish_reason == nullptr && !other)) {
        delta["content"] = piece.text;
      }
      if (!piece.tool_calls.empty()) {
        delta["tool_calls"] = ToolCallsJson(piece.tool_calls, /*numbered=*/true);
      }
    } else {
      choice["text"] = piece.text;
    }
    choice["logprobs"] = LogprobsJson(piece.logprobs, is_start, offset);
    if (identity_.options.token_ids) choice["token_ids"] = piece.tokens;
    choice["finish_reason"] = finish_reason == nullptr ? Json() : Json(finish_reason);
    if (finish_reason != nullptr) {
      choice["stop_reason"] = StopReason(piece.result);
      AddSatisfied(piece.result, &choice);
    }
    Json chunk = Head();
    chunk["choices"] = Json::array({std::move(choice)});
    return WithUsage(std::move(chunk));
  }

  // Under both names that clients look for.
  void AddReasoning(const std::string& reasoning, Json* out) const {
    if (reasoning.empty() || !identity_.options.include_reasoning) return;
    (*out)["reasoning_content"] = reasoning;
    (*out)["reasoning"] = reasoning;
  }

  static Json ToolCallsJson(const std::vector<ToolCallDelta>& calls, bool numbered) {
    Json list = Json::array();
    for (const ToolCallDelta& call : calls) {
      Json out;
      if (numbered) out["index"] = call.index;
      out["id"] = call.id;
      out["type"] = "function";
      out["function"] = {{"name", call.name}, {"arguments", call.arguments}};
      list.push_back(std::move(out));
    }
    return list;
  }

  // Every chunk has usage, null but in the last, when the client wants one at all.
  std::string WithUsage(Json chunk) const {
    if (identity_.options.include_usage) {
      chunk["usage"] = identity_.options.continuous_usage ? UsageSoFar() : Json();
    }
    return Event(chunk);
  }

  // The account comes with the last chunk.
  Json UsageSoFar() const {
    Json usage;
    usage["prompt_tokens"] = told_.prompt_tokens;
    usage["completion_tokens"] = told_.completion_tokens;
    usage["total_tokens"] = told_.prompt_tokens + told_.completion_tokens;
    return usage;
  }

  // As vLLM says it: what matched, null for the end of the model's own.
  static Json StopReason(const CompletionResult& result) {
    if (result.reason != FinishReason::kStop) return nullptr;
    if (result.stop_token) return *result.stop_token;
    return result.stop_string;
  }

  // Ours: whether the output is what response_format and the like ask for, or was ended before.
  static void AddSatisfied(const CompletionResult& result, Json* choice) {
    if (result.grammar_satisfied) (*choice)["constraint_satisfied"] = *result.grammar_satisfied;
  }

  Json WholeChoice(size_t i) const {
    kvasir::Choice choice = choices_[i];
    const int prompt = static_cast<int>(i) / identity_.n;
    if (identity_.options.drop_output) choice = {};
    choice.result = choices_[i].result;
    const bool echo = identity_.options.echo;
    if (echo) {
      choice.text = identity_.prompt_texts[static_cast<size_t>(prompt)] + choice.text;
      std::vector<TokenLogprob> all = EchoLogprobs(prompt);
      all.insert(all.end(), choice.logprobs.begin(), choice.logprobs.end());
      choice.logprobs = std::move(all);
    }
    Json out;
    out["index"] = i;
    if (chat()) {
      Json& message = out["message"];
      message["role"] = "assistant";
      message["content"] = choice.text;
      message["refusal"] = nullptr;
      AddReasoning(choice.reasoning, &message);
      if (!choice.tool_calls.empty()) {
        if (choice.text.empty()) message["content"] = nullptr;
        message["tool_calls"] = ToolCallsJson(choice.tool_calls, /*numbered=*/false);
      }
    } else {
      out["text"] = choice.text;
    }
    size_t offset = 0;
    out["logprobs"] = LogprobsJson(choice.logprobs, echo, &offset);
    if (identity_.options.token_ids) out["token_ids"] = choice.tokens;
    out["finish_reason"] = FinishReasonOf(choice.result);
    out["stop_reason"] = StopReason(choice.result);
    AddSatisfied(choice.result, &out);
    return out;
  }

  std::vector<kvasir::Choice> choices_;                     // [num_prompts * n]
  std::vector<std::vector<TokenLogprob>> prompt_logprobs_;  // [num_prompts]
  RequestUsage told_;                                       // counted as events come
  std::set<int> opened_;                                    // prompts whose first piece was sent
};

}  // namespace

std::unique_ptr<OpenAiAnswer> MakeAnswer(AnswerIdentity identity, const Tokenizer* tokenizer) {
  if (identity.form == AnswerForm::kResponses) {
    return MakeResponsesAnswer(std::move(identity), tokenizer);
  }
  return std::make_unique<ChoicesAnswer>(std::move(identity), tokenizer);
}

}  // namespace kvasir
