// Chat messages of a request, and the one question asked about them: what prompt do they make?
//
// Stateless functions, safe from any thread. Rendering a model's own Jinja template is not built,
// and a guessed format would silently degrade answers, so RenderChat() says Unimplemented instead
// of guessing.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvasir {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant" or "tool"
  std::string content;
};

// Errors: InvalidArgument for no messages, an unknown role (with its index), or content that is not
// UTF-8.
absl::Status ValidateChatMessages(absl::Span<const ChatMessage> messages);

// The prompt for `messages`. Errors: those of ValidateChatMessages, else always Unimplemented, with
// the remedy.
absl::StatusOr<std::string> RenderChat(absl::Span<const ChatMessage> messages);

}  // namespace kvasir
