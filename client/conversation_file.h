// A conversation as a JSON file, made into the API's ChatMessages: an object with `messages`, and
// optionally `tools`, `documents`, `add_generation_prompt`, `continue_final_message`, `kwargs` and
// `chat_template` (a template's name); or a list, which is the messages alone.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kvasir/v1/generation.pb.h"

namespace kvasir {

// InvalidArgument with what is wrong.
absl::StatusOr<v1::ChatMessages> ParseConversation(absl::string_view text);

}  // namespace kvasir
