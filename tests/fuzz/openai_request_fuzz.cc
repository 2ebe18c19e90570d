// Any bytes as a body in OpenAI's form: refused as InvalidArgument with words, or made requests
// that keep the shape the answer relies on.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "server/frontend/request_errors.h"
#include "server/http/json_fields.h"
#include "server/http/openai_request.h"

namespace kvasir {
namespace {

void Check(const absl::StatusOr<OpenAiRequest>& parsed) {
  if (!parsed.ok()) {
    KVASIR_CHECK(parsed.status().code() == absl::StatusCode::kInvalidArgument);
    KVASIR_CHECK(parsed.status().message().size() <= kMaxErrorMessageBytes);
    return;
  }
  KVASIR_CHECK(!parsed->prompts.empty() && parsed->prompts.size() <= kMaxPrompts);
  KVASIR_CHECK(parsed->n >= 1);
  for (const v1::GenerateRequest& request : parsed->prompts) {
    KVASIR_CHECK(request.prompt_case() != v1::GenerateRequest::PROMPT_NOT_SET);
    // Text that is no UTF-8 would not survive this.
    std::string bytes;
    KVASIR_CHECK(request.SerializeToString(&bytes));
  }
}

void Parse(absl::string_view text) {
  const absl::StatusOr<nlohmann::json> body = ParseJsonObject(text);
  if (!body.ok()) {
    KVASIR_CHECK(body.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  const absl::StatusOr<OpenAiRequest> chat = ParseChatRequest(*body, "session", text);
  const absl::StatusOr<OpenAiRequest> reordered = ParseChatRequest(*body, "session");
  KVASIR_CHECK(chat.ok() == reordered.ok());
  if (chat.ok()) {
    // The tools as they are written are those that were read.
    const std::string& tools = chat->prompts.front().messages().tools_json();
    KVASIR_CHECK(tools.empty() == reordered->prompts.front().messages().tools_json().empty());
    KVASIR_CHECK(tools.empty() || nlohmann::json::parse(tools).is_array());
  }
  Check(chat);
  Check(ParseCompletionRequest(*body, "", text));
  Check(ParseResponsesRequest(*body, "", text));
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvasir::Parse({reinterpret_cast<const char*>(data), size});
  return 0;
}
