// The `response_template` of a model's tokenizer_config.json (transformers 5: "Response parsing"),
// read as a ResponseFormat.
//
// What is declarative there is read: literals, and patterns that are literals with white space
// around or a name inside; fields for content, reasoning and tool calls; the contents text, json,
// python-call-list and xml-inline. Pure, thread safe.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/frontend/response/response_format.h"

namespace kvasir {

// `tokenizer_config_json`: the whole file; may be empty. Nothing when it has no response_template.
// Unimplemented, saying what, for one that needs more than is read here; InvalidArgument for one
// that is broken. The format's name is "response_template".
absl::StatusOr<std::optional<ResponseFormat>> ReadResponseTemplate(
    absl::string_view tokenizer_config_json);

}  // namespace kvasir
