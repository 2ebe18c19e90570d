// Structured output in OpenAI's forms (response_format; text.format of the Responses API) and
// vLLM's (structured_outputs, and guided_* of older versions), to Sampling.constraint. Pure, thread
// safe.
#pragma once

#include "absl/strings/string_view.h"
#include "kvasir/v1/generation.pb.h"
#include "server/http/json_fields.h"

namespace kvasir {

// `body`: the text that `fields` are of, for the order of a schema's properties; when empty they
// come in alphabetical order. What is wrong becomes a violation.
void ReadConstraint(const JsonFields& fields, absl::string_view body, v1::Sampling* sampling);

}  // namespace kvasir
