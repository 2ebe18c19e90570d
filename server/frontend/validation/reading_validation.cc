#include "server/frontend/validation/reading_validation.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/response/call_constraint.h"

namespace kvasir {
namespace {

// Names of the tools that the choice leaves; empty = all of them.
absl::StatusOr<std::vector<std::string>> CallableTools(const v1::ToolChoice& choice,
                                                       const ToolSchemas& tools) {
  if (choice.mode() == v1::TOOL_CHOICE_MODE_NAMED) {
    if (tools.Has(choice.name())) return std::vector<std::string>{choice.name()};
    return BadFieldError("messages.tool_choice.name",
                         absl::StrCat(Quoted(choice.name()), " is none of the tools"));
  }
  if (choice.allowed_tools_size() > static_cast<int>(ToolSchemas::kMaxTools)) {
    return BadFieldError("messages.tool_choice.allowed_tools",
                         absl::StrCat(choice.allowed_tools_size(), " names, the limit is ",
                                      ToolSchemas::kMaxTools, "; name each tool once"));
  }
  for (const std::string& name : choice.allowed_tools()) {
    if (tools.Has(name)) continue;
    return BadFieldError("messages.tool_choice.allowed_tools",
                         absl::StrCat(Quoted(name), " is none of the tools"));
  }
  return std::vector<std::string>(choice.allowed_tools().begin(), choice.allowed_tools().end());
}

absl::Status NoTools() {
  return BadFieldError("messages.tool_choice", "there are no tools to choose from; send tools");
}

}  // namespace

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
  const bool named = choice.mode() == v1::TOOL_CHOICE_MODE_NAMED;
  const bool restricted = choice.allowed_tools_size() > 0;
  if (restricted && (named || choice.mode() == v1::TOOL_CHOICE_MODE_NONE)) {
    return BadFieldError("messages.tool_choice.allowed_tools",
                         "goes with the modes auto and required; leave one of them out");
  }
  if (choice.mode() == v1::TOOL_CHOICE_MODE_NONE) messages->clear_tools_json();
  // What an answer's text alone does not keep.
  const bool needs_calls = forced || restricted;
  if (needs_calls && messages->tools_json().empty()) return NoTools();
  const bool parses = !message->output().has_parse_response() || message->output().parse_response();
  const ResponseFormat* const format = limits.response_format;
  if (!parses || format == nullptr || !format->parses()) {
    if (!needs_calls) return absl::OkStatus();
    return BadFieldError(
        "messages.tool_choice",
        "the notation of the model's tool calls is not known, or not read "
        "(parse_response); use auto or none, or have the operator set tool_format");
  }
  CheckedRequest::Reading& reading = checked->reading.emplace(CheckedRequest::Reading());
  reading.continues_message = messages->continue_final_message();
  if (messages->tools_json().empty() || !format->has_calls()) {
    if (!needs_calls) return absl::OkStatus();
    return BadFieldError(
        "messages.tool_choice",
        absl::StrCat("a model of tool_format ", format->name, " calls no tools; use auto or none"));
  }
  absl::StatusOr<ToolSchemas> tools = ToolSchemas::FromJson(messages->tools_json());
  if (!tools.ok()) return BadFieldError("messages.tools_json", tools.status().message());
  if (needs_calls && tools->empty()) return NoTools();
  KVASIR_ASSIGN_OR_RETURN(std::vector<std::string> callable, CallableTools(choice, *tools));
  reading.at_most_one_call = choice.at_most_one();
  if (forced) {
    if (checked->constraint) {
      return BadFieldError("messages.tool_choice",
                           "required and named constrain the output; leave out "
                           "sampling.constraint, or use auto");
    }
    if (message->stopping().ignore_eos()) {
      return BadFieldError("stopping.ignore_eos",
                           "an output that must be tool calls ends with them; leave one out");
    }
    absl::StatusOr<std::string> calls = CallConstraintText(*format, messages->tools_json(),
                                                           callable, named || choice.at_most_one());
    if (!calls.ok()) return BadFieldError("messages.tool_choice", calls.status().message());
    checked->constraint = {.kind = Constraint::Kind::kToolCalls, .text = *std::move(calls)};
  }
  tools->AllowOnly(std::move(callable));
  if (!tools->empty()) reading.tools = std::make_unique<const ToolSchemas>(*std::move(tools));
  return absl::OkStatus();
}

}  // namespace kvasir
