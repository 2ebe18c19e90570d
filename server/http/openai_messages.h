// The conversation in OpenAI's forms: chat's `messages`, the Responses API's `input`, and tools.
// Pure, thread safe.
#pragma once

#include "kvasir/v1/generation.pb.h"
#include "server/http/json_fields.h"

namespace kvasir {

// Messages in one body.
inline constexpr size_t kMaxChatMessages = 4096;

// Fills request->messages; what is wrong becomes a violation.
void ReadChatMessages(const JsonFields& fields, const char* name, v1::GenerateRequest* request,
                      Violations* violations);

// `instructions` and `input`, which is a string or a list of messages.
void ReadResponsesInput(const JsonFields& fields, v1::GenerateRequest* request,
                        Violations* violations);

// The seam for tools: refuses those that the answer could use. tool_choice "none" asks for nothing.
void ReadTools(const JsonFields& fields);

}  // namespace kvasir
