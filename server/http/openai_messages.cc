#include "server/http/openai_messages.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/quoted.h"

namespace kvasir {
namespace {

using nlohmann::json;

// The text of a `content`: a string, or a list of text parts put together. Nothing when it is
// neither.
std::optional<std::string> TextOf(const json& content, const std::string& path,
                                  Violations* violations) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    violations->Add(path, absl::StrCat("is a JSON ", content.type_name(),
                                       ", but must be a string or a list of parts"));
    return std::nullopt;
  }
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const JsonFields part(content[i], absl::StrCat(path, "[", i, "]."), violations);
    if (content[i].is_string()) {
      text += content[i].get<std::string>();
      continue;
    }
    if (!content[i].is_object()) {
      violations->Add(absl::StrCat(path, "[", i, "]"), "must be an object with a type");
      return std::nullopt;
    }
    const std::string type = part.String("type").value_or("");
    // "text" in chat, "input_text" and "output_text" in responses.
    if (type != "text" && type != "input_text" && type != "output_text") {
      part.Fault("type", absl::StrCat("is ", Quoted(type),
                                      ", but these models read text alone; send parts of type "
                                      "\"text\""));
      return std::nullopt;
    }
    text += part.String("text").value_or("");
  }
  return text;
}

void ReadMessage(const json& message, const std::string& path, v1::ChatMessages* out,
                 Violations* violations) {
  if (!message.is_object()) {
    return violations->Add(path, "must be an object with role and content");
  }
  const JsonFields fields(message, absl::StrCat(path, "."), violations);
  std::string role = fields.String("role").value_or("");
  if (role == "developer") role = "system";
  if (role.empty()) return fields.Fault("role", "there is none; say who speaks");
  if (fields.Find("tool_calls") != nullptr || fields.Find("function_call") != nullptr) {
    return fields.Fault("tool_calls", "tools are not supported by this server; leave them out");
  }
  v1::ChatMessage* added = out->add_messages();
  added->set_role(std::move(role));
  const json* content = fields.Find("content");
  if (content == nullptr) return;  // an assistant's empty turn
  if (auto text = TextOf(*content, fields.Path("content"), violations)) {
    added->set_content(*std::move(text));
  }
}

void ReadList(const json& list, const char* name, v1::ChatMessages* out, Violations* violations) {
  if (!violations->CheckCount(name, static_cast<int64_t>(list.size()), kMaxChatMessages,
                              "messages")) {
    return;
  }
  for (size_t i = 0; i < list.size(); ++i) {
    ReadMessage(list[i], absl::StrCat(name, "[", i, "]"), out, violations);
  }
}

}  // namespace

void ReadChatMessages(const JsonFields& fields, const char* name, v1::GenerateRequest* request,
                      Violations* violations) {
  const json* messages = fields.Find(name);
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return fields.Fault(name, "must be a list of at least one message");
  }
  ReadList(*messages, name, request->mutable_messages(), violations);
}

void ReadResponsesInput(const JsonFields& fields, v1::GenerateRequest* request,
                        Violations* violations) {
  v1::ChatMessages* out = request->mutable_messages();
  if (auto instructions = fields.String("instructions")) {
    v1::ChatMessage* message = out->add_messages();
    message->set_role("system");
    message->set_content(*std::move(instructions));
  }
  const json* input = fields.Find("input");
  if (input != nullptr && input->is_string()) {
    v1::ChatMessage* message = out->add_messages();
    message->set_role("user");
    message->set_content(input->get<std::string>());
  } else if (input != nullptr && input->is_array() && !input->empty()) {
    ReadList(*input, "input", out, violations);
  } else {
    fields.Fault("input", "must be a string or a list of at least one message");
  }
}

void ReadTools(const JsonFields& fields) {
  const json* choice = fields.Find("tool_choice");
  if (choice != nullptr && *choice == "none") return;
  for (const char* name : {"tools", "functions"}) {
    const json* tools = fields.Find(name);
    if (tools != nullptr && !(tools->is_array() && tools->empty())) {
      fields.Fault(name,
                   "tools are not supported by this server; leave them out, or set tool_choice to "
                   "\"none\"");
    }
  }
}

}  // namespace kvasir
