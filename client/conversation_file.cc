#include "client/conversation_file.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/json_input.h"
#include "nlohmann/json.hpp"

namespace kvasir {
namespace {

// Keeps the order of keys: templates print it.
using Json = nlohmann::ordered_json;

absl::Status WrongType(const std::string& key, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat("the conversation's ", key, " must be ", wanted));
}

absl::Status SetField(const std::string& key, const Json& value, v1::ChatMessages* messages) {
  if (value.is_null()) return absl::OkStatus();
  if (key == "messages") {
    if (!value.is_array()) return WrongType(key, "a list");
    for (const Json& message : value) {
      if (!message.is_object()) return WrongType(key, "a list of objects");
      messages->add_messages()->set_json(message.dump());
    }
  } else if (key == "tools" || key == "documents") {
    if (!value.is_array()) return WrongType(key, "a list");
    (key == "tools" ? messages->mutable_tools_json() : messages->mutable_documents_json())
        ->assign(value.dump());
  } else if (key == "kwargs") {
    if (!value.is_object()) return WrongType(key, "an object");
    messages->set_template_kwargs_json(value.dump());
  } else if (key == "chat_template") {
    if (!value.is_string()) return WrongType(key, "a template's name");
    messages->set_template_name(value.get<std::string>());
  } else if (key == "add_generation_prompt" || key == "continue_final_message") {
    if (!value.is_boolean()) return WrongType(key, "true or false");
    if (key == "add_generation_prompt") {
      messages->set_add_generation_prompt(value.get<bool>());
    } else {
      messages->set_continue_final_message(value.get<bool>());
    }
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("the conversation has the unknown field '", key, "'"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::ChatMessages> ParseConversation(absl::string_view text) {
  KVASIR_ASSIGN_OR_RETURN(const Json json, ParseJsonInput(text, "the conversation"));
  v1::ChatMessages messages;
  if (json.is_array()) {
    const absl::Status status = SetField("messages", json, &messages);
    if (!status.ok()) return status;
    return messages;
  }
  if (!json.is_object() || !json.contains("messages")) {
    return absl::InvalidArgumentError(
        "the conversation must be a JSON object with messages, or a list of messages");
  }
  for (const auto& [key, value] : json.items()) {
    // "name" and the expected results stand in files of test cases.
    if (key == "name" || key == "rendered" || key == "error") continue;
    const absl::Status status = SetField(key, value, &messages);
    if (!status.ok()) return status;
  }
  return messages;
}

}  // namespace kvasir
