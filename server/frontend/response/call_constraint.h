// The grammar of an answer that must be tool calls, for tool_choice required and named.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/frontend/response/response_format.h"

namespace kvasir {

// In the form of KVASIR_TEXT_CONSTRAINT_TOOL_CALLS (text/kvasir_text.h): reasoning when the model
// writes any, then calls whose arguments are of the tools' parameters. `tools_json` is a list that
// ToolSchemas took; `only_tools` are those that may be called, empty = any of them; `only_one`:
// once.
//
// InvalidArgument: there is no grammar for the notation of `format` (the message names those with
// one); the tools are longer than a grammar may be; a name or its parameters cannot be kept.
absl::StatusOr<std::string> CallConstraintText(const ResponseFormat& format,
                                               absl::string_view tools_json,
                                               absl::Span<const std::string> only_tools,
                                               bool only_one);

}  // namespace kvasir
