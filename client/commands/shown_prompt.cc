#include "client/commands/shown_prompt.h"

#include <iostream>

#include "absl/strings/match.h"

namespace kvasir {

absl::StatusOr<std::string> ShownPrompt(const v1::GenerateRequest& request,
                                        const CallOptions& options, GenerationClient* client) {
  if (!request.has_messages()) return request.text();
  v1::RenderChatRequest wanted;
  wanted.set_model(request.model());
  *wanted.mutable_messages() = request.messages();
  auto rendered = client->RenderChat(wanted, options);
  if (!rendered.ok()) return rendered.status();
  return rendered->text();
}

void PrintPrompt(const std::string& prompt) {
  std::cerr << prompt << (absl::EndsWith(prompt, "\n") ? "" : "\n") << std::flush;
}

}  // namespace kvasir
