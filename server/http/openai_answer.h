// A generation's events as OpenAI's answers: a stream of server-sent events, or one JSON body.
//
// Used by one thread at a time. Makes bytes only; where they go and when is generation_exchange.h's
// matter.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "runtime/engine/request.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/frontend/generation_pump.h"
#include "server/http/openai_request.h"

namespace kvasir {

enum class AnswerForm { kChat, kCompletion, kResponses };

// What an answer says about itself, the same in each of its chunks.
struct AnswerIdentity {
  AnswerForm form = AnswerForm::kChat;
  std::string id;       // "chatcmpl-...", "cmpl-...", "resp_..."
  std::string model;    // as served
  int64_t created = 0;  // seconds since 1970
  int num_prompts = 1;
  int32_t n = 1;
  AnswerOptions options;
  // With echo: the text of each prompt; its tokens where log-probabilities are asked for.
  std::vector<std::string> prompt_texts = {};
  std::vector<std::vector<TokenId>> prompt_tokens = {};
  // Responses: what the answer repeats of the request.
  nlohmann::ordered_json request = {};
};

class OpenAiAnswer {
 public:
  // The tokenizer outlives the answer.
  OpenAiAnswer(AnswerIdentity identity, const Tokenizer* tokenizer);
  virtual ~OpenAiAnswer() = default;

  // Of prompt `prompt`: what is to be sent now, "" when nothing is.
  virtual std::string OnEvent(int prompt, OutputEvent event) = 0;
  // Its Finished event, with status OK.
  virtual std::string OnFinished(int prompt, OutputFinished event) = 0;
  // After every prompt has finished: the rest of the stream, or the whole body.
  virtual std::string Complete() = 0;
  // What ends a stream that has begun and failed.
  virtual std::string Failed(const absl::Status& status, absl::string_view request_id);

  bool streams() const { return identity_.options.stream; }
  // Of what has finished so far.
  const RequestUsage& usage() const { return usage_; }

 protected:
  using Json = nlohmann::ordered_json;

  int32_t Choice(int prompt, int32_t index) const { return prompt * identity_.n + index; }
  void AddUsage(const OutputFinished& finished);
  // OpenAI's usage with the account of KV memory in "kvasir".
  Json UsageJson() const;
  // The shape of chat: a list of {token, logprob, bytes, top_logprobs}.
  Json ChatLogprobs(const std::vector<TokenLogprob>& tokens) const;
  // The shape of completions: parallel lists. `offset`: characters before the first token.
  Json CompletionLogprobs(const std::vector<TokenLogprob>& tokens, size_t* offset) const;
  std::string TokenText(TokenId id) const;

  static const char* FinishReasonOf(const CompletionResult& result);
  static std::string Dump(const Json& json);
  // One server-sent event.
  static std::string Event(const Json& json);

  const AnswerIdentity identity_;
  const Tokenizer* const tokenizer_;
  RequestUsage usage_;  // of all prompts together
  int32_t reasoning_tokens_ = 0;
};

std::unique_ptr<OpenAiAnswer> MakeAnswer(AnswerIdentity identity, const Tokenizer* tokenizer);

}  // namespace kvasir
