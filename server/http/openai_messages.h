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

// `tools` and `tool_choice`, in the form of chat or of responses, to request->messages.
void ReadTools(const JsonFields& fields, v1::GenerateRequest* request, Violations* violations);

// Puts the tools of a body, where they are in chat's form, into the order of keys in which the
// client wrote them: templates show it to the model, which has learnt one.
void KeepToolsAsWritten(absl::string_view body, v1::GenerateRequest* request);

// vLLM's fields about how the template makes the prompt, and OpenAI's reasoning_effort, which
// templates of reasoning models read.
void ReadTemplateFields(const JsonFields& fields, v1::ChatMessages* messages);

// All of a chat's body that makes its prompt: the above but responses'. `body`: the text that
// `fields` are of.
void ReadConversation(const JsonFields& fields, absl::string_view body,
                      v1::GenerateRequest* request, Violations* violations);

}  // namespace kvasir
