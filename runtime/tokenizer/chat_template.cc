#include "runtime/tokenizer/chat_template.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {

absl::Status ValidateChatMessages(absl::Span<const ChatMessage> messages) {
  if (messages.empty()) {
    return absl::InvalidArgumentError("chat has no messages; send at least one with role \"user\"");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      return absl::InvalidArgumentError(
          absl::StrCat("chat message ", i, " has the role \"", absl::CHexEscape(role),
                       "\"; it must be system, user, assistant or tool"));
    }
    if (const std::optional<size_t> offset = FindInvalidUtf8(messages[i].content)) {
      return absl::InvalidArgumentError(
          absl::StrCat("chat message ", i, " is not valid UTF-8 at byte ", *offset));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> RenderChat(absl::Span<const ChatMessage> messages) {
  KVASIR_RETURN_IF_ERROR(ValidateChatMessages(messages));
  return absl::UnimplementedError(
      "chat templates are not supported yet; render the conversation in the model's own format and "
      "send it "
      "as text with parse_special_tokens, or as token ids");
}

}  // namespace kvasir
