// Bodies in OpenAI's form to the requests of the API: POST /v1/chat/completions, /v1/completions
// and /v1/responses, with vLLM's extra fields and our own.
//
// Here are names and shapes only; ranges are request_validation's matter, whatever the front end. A
// field that would change the answer and is not supported is refused by name; one that changes
// nothing (user, store, metadata, ...) or is unknown is ignored. Pure, thread safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kvasir/v1/generation.pb.h"
#include "nlohmann/json.hpp"

namespace kvasir {

// Prompts in one /v1/completions body.
inline constexpr size_t kMaxPrompts = 64;

// How the answer is to look.
struct AnswerOptions {
  bool stream = false;
  bool include_usage = false;     // stream: one more chunk with usage
  bool continuous_usage = false;  // stream: usage in every chunk
  bool logprobs = false;
  bool echo = false;              // completions: the prompt before the text
  bool drop_output = false;       // completions: max_tokens 0, the prompt alone
  bool keep_stop_string = false;  // include_stop_str_in_output
  bool token_ids = false;         // return_token_ids
  bool include_reasoning = true;  // chat: in answers
};

struct OpenAiRequest {
  // One for each prompt; each with the same n. Completions of prompt p are choices p * n to
  // p * n + n - 1.
  std::vector<v1::GenerateRequest> prompts;
  int32_t n = 1;
  AnswerOptions answer;
  // Responses: what the answer repeats of the request (responses_echo.h).
  nlohmann::ordered_json echo;
};

// `session_header`: the value of x-session-id, empty when absent; the field session_id wins.
// `text`: what `body` was parsed from, for the order of properties in schemas of the output.
// InvalidArgument with BadRequest details: every field with a wrong type or shape, or that is not
// supported, under its name in the body.
absl::StatusOr<OpenAiRequest> ParseChatRequest(const nlohmann::json& body,
                                               absl::string_view session_header,
                                               absl::string_view text = "");
absl::StatusOr<OpenAiRequest> ParseCompletionRequest(const nlohmann::json& body,
                                                     absl::string_view session_header,
                                                     absl::string_view text = "");
absl::StatusOr<OpenAiRequest> ParseResponsesRequest(const nlohmann::json& body,
                                                    absl::string_view session_header,
                                                    absl::string_view text = "");

}  // namespace kvasir
