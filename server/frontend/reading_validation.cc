#include "server/frontend/reading_validation.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "server/frontend/request_errors.h"

namespace kvasir {

absl::Status CheckReading(const ModelLimits& limits, v1::GenerateRequest* message,
                          CheckedRequest* checked) {
  v1::ChatMessages* const messages = message->mutable_messages();
  const v1::ToolChoice& choice = messages->tool_choice();
  const bool forced =
      choice.mode() == v1::TOOL_CHOICE_MODE_REQUIRED || choice.mode() == v1::TOOL_CHOICE_MODE_NAMED;
  if (!v1::ToolChoiceMode_IsValid(choice.mode())) {
    return BadFieldError("messages.tool_choice.mode",
                         absl::StrCat(static_cast<int>(choice.mode()), " is no ToolChoiceMode"));
  }
  if (choice.mode() == v1::TOOL_CHOICE_MODE_NONE) messages->clear_tools_json();
  if (forced && messages->tools_json().empty()) {
    return BadFieldError("messages.tool_choice", "there are no tools to choose from; send tools");
  }
  const bool parses = !message->output().has_parse_response() || message->output().parse_response();
  const ResponseFormat* const format = limits.response_format;
  if (!parses || format == nullptr || !format->parses()) {
    if (!forced) return absl::OkStatus();
    return BadFieldError(
        "messages.tool_choice",
        "the notation of the model's tool calls is not known, or not read "
        "(parse_response); use auto or none, or have the operator set tool_format");
  }
  CheckedRequest::Reading& reading = checked->reading.emplace(CheckedRequest::Reading());
  reading.continues_message = messages->continue_final_message();
  if (messages->tools_json().empty() || !format->has_calls()) return absl::OkStatus();
  absl::StatusOr<ToolSchemas> tools = ToolSchemas::FromJson(messages->tools_json());
  if (!tools.ok()) return BadFieldError("messages.tools_json", tools.status().message());
  if (choice.mode() == v1::TOOL_CHOICE_MODE_NAMED && !tools->Has(choice.name())) {
    return BadFieldError("messages.tool_choice.name",
                         absl::StrCat(Quoted(choice.name()), " is none of the tools"));
  }
  if (forced) {
    return absl::UnimplementedError(
        "tool_choice required and named are not supported yet; use auto, and say in the prompt "
        "that "
        "a tool is to be called");
  }
  if (!tools->empty()) reading.tools = std::make_unique<const ToolSchemas>(*std::move(tools));
  return absl::OkStatus();
}

}  // namespace kvasir
