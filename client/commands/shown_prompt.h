// What a request's prompt is as text, for people who ask to see it.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/generation_client.h"

namespace kvasir {

// Its messages as the model's chat template renders them on the server, or its text as it is.
// Errors: those of GenerationClient::RenderChat.
absl::StatusOr<std::string> ShownPrompt(const v1::GenerateRequest& request,
                                        const CallOptions& options, GenerationClient* client);

// On standard error, so that standard output stays the answer's.
void PrintPrompt(const std::string& prompt);

}  // namespace kvasir
