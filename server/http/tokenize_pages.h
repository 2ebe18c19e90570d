// POST /tokenize and /detokenize in vLLM's form, with llama.cpp's names beside it: a text, or a
// chat's messages, to the ids that a generation would compute, and ids to their text.
//
// Stateless functions, thread safe. They take time in proportion to the text: for a text worker,
// whose `job` may end them. Errors: those of the API, with the body's names of fields.
#pragma once

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/frontend/frontend.h"
#include "server/http/http_exchange.h"

namespace kvasir {

// {"count", "max_model_len", "tokens", "token_strs"}.
absl::StatusOr<nlohmann::ordered_json> Tokenize(const Frontend& frontend,
                                                const HttpRequest& request, const Caller& caller,
                                                const TextJob& job);

// {"prompt", "content"}, both the text.
absl::StatusOr<nlohmann::ordered_json> Detokenize(const Frontend& frontend,
                                                  const HttpRequest& request, const Caller& caller,
                                                  const TextJob& job);

}  // namespace kvasir
