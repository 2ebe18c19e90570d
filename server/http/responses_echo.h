// What an answer of the Responses API repeats of its request. Pure, thread safe.
#pragma once

#include "nlohmann/json.hpp"
#include "server/http/json_fields.h"

namespace kvasir {

// instructions, tools, tool_choice, text, reasoning, metadata, max_output_tokens, ...: as asked, or
// as OpenAI's API names what was not asked. temperature and top_p are null where the model's own
// hold, for the caller to fill in. What does not do here what it does there (store, truncation,
// service_tier) says what was done. A field of the wrong type is noted as a violation.
nlohmann::ordered_json EchoResponsesRequest(const nlohmann::json& body, const JsonFields& fields);

}  // namespace kvasir
