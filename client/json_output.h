// What `kvasir ... --json` prints. Scripts rely on these names: adding is free, renaming is not.
//
// Pure functions to JSON values, for what is more than one message of the API (message_json.h).
// Text is always valid UTF-8: bytes of a model's output that are not are replaced when the value is
// dumped with DumpJson.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/generation_client.h"
#include "nlohmann/json.hpp"

namespace kvasir {

// text, token_ids, finish_reason, usage, request_id, model; stop_string or stop_token_id when one
// matched; logprobs and prompt_logprobs when asked for; with several completions the same again per
// completion under "completions".
nlohmann::ordered_json ToJson(const GenerateResult& result);
// {"error": {code, message, violations, retry_after_seconds}}.
nlohmann::ordered_json ToJson(const absl::Status& error);

// One line, invalid UTF-8 replaced.
std::string DumpJson(const nlohmann::ordered_json& value);

}  // namespace kvasir
