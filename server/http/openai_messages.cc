#include "server/http/openai_messages.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "server/http/json_member.h"

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
    // What an assistant declined with, earlier, is text to these models.
    const char* const key = type == "refusal" ? "refusal" : "text";
    // "text" in chat, "input_text" and "output_text" in responses.
    if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal") {
      part.Fault("type", absl::StrCat("is ", Quoted(type),
                                      ", but these models read text alone; send parts of type "
                                      "\"text\""));
      return std::nullopt;
    }
    if (part.Find(key) == nullptr) {
      part.Fault(key, "there is none");
      return std::nullopt;
    }
    text += part.String(key).value_or("");
  }
  return text;
}

// Calls of an earlier turn: {id, type, function: {name, arguments}}.
bool CheckCalls(const json& calls, const JsonFields& fields, Violations* violations) {
  bool good = calls.is_array();
  for (size_t i = 0; good && i < calls.size(); ++i) {
    const json function = calls[i].is_object() ? calls[i].value("function", json()) : json();
    good = function.is_object() && function.contains("name") && function["name"].is_string();
  }
  if (!good) violations->Add(fields.Path("tool_calls"), "must be a list of calls of functions");
  return good;
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
  if (fields.Find("function_call") != nullptr) {
    return fields.Fault("function_call", "is of an older API; send tool_calls");
  }
  std::optional<std::string> text;
  if (const json* content = fields.Find("content"); content != nullptr) {
    text = TextOf(*content, fields.Path("content"), violations);
    if (!text) return;
  }
  v1::ChatMessage* added = out->add_messages();
  const json* calls = fields.Find("tool_calls");
  const bool has_calls = calls != nullptr && !(calls->is_array() && calls->empty());
  const auto tool_call_id = fields.String("tool_call_id");
  const auto name = fields.String("name");
  auto reasoning = fields.String("reasoning_content");
  if (const auto other = fields.String("reasoning"); !reasoning) reasoning = other;
  if (!has_calls && !tool_call_id && !name && !reasoning) {
    added->set_role(std::move(role));
    if (text) added->set_content(*std::move(text));
    return;
  }
  json whole = {{"role", role}};
  if (text) whole["content"] = *text;
  if (has_calls && CheckCalls(*calls, fields, violations)) {
    whole["tool_calls"] = *calls;
    // Templates go through the arguments, which clients leave out where there are none.
    for (json& call : whole["tool_calls"]) {
      json& arguments = call["function"]["arguments"];
      if (AsksForNothing(arguments)) arguments = "{}";
    }
  }
  if (tool_call_id) whole["tool_call_id"] = *tool_call_id;
  if (name) whole["name"] = *name;
  if (reasoning) whole["reasoning_content"] = *reasoning;
  added->set_json(whole.dump());
}

// An item of the Responses API that is no message; false when it is one.
bool ReadCallItem(const json& item, const std::string& path, v1::ChatMessages* out,
                  Violations* violations) {
  if (!item.is_object()) return false;
  const JsonFields fields(item, absl::StrCat(path, "."), violations);
  const std::string type = item.contains("type") ? fields.String("type").value_or("") : "";
  if (type == "reasoning") return true;  // templates decide what they show of earlier thoughts
  json message;
  if (type == "function_call") {
    if (fields.Find("name") == nullptr) fields.Fault("name", "there is none");
    const json call = {{"id", fields.String("call_id").value_or("")},
                       {"type", "function"},
                       {"function",
                        {{"name", fields.String("name").value_or("")},
                         {"arguments", fields.String("arguments").value_or("{}")}}}};
    // Calls of one turn are one message.
    if (out->messages_size() > 0) {
      std::string* const last = out->mutable_messages(out->messages_size() - 1)->mutable_json();
      json earlier = json::parse(*last, nullptr, /*allow_exceptions=*/false);
      if (earlier.is_object() && earlier.contains("tool_calls")) {
        earlier["tool_calls"].push_back(call);
        *last = earlier.dump();
        return true;
      }
    }
    message = {{"role", "assistant"}, {"tool_calls", json::array({call})}};
  } else if (type == "function_call_output") {
    const json* const output = fields.Find("output");
    if (output == nullptr) {
      fields.Fault("output", "there is none");
      return true;
    }
    const auto text = TextOf(*output, fields.Path("output"), violations);
    message = {{"role", "tool"},
               {"tool_call_id", fields.String("call_id").value_or("")},
               {"content", text.value_or("")}};
  } else if (!type.empty() && type != "message") {
    fields.Fault("type", absl::StrCat("is ", Quoted(type),
                                      "; send messages, calls of functions and their outputs, for "
                                      "nothing is stored here"));
    return true;
  } else {
    return false;
  }
  out->add_messages()->set_json(message.dump());
  return true;
}

// `items`: those of the Responses API, which are not all messages.
void ReadList(const json& list, const char* name, bool items, v1::ChatMessages* out,
              Violations* violations) {
  if (!violations->CheckCount(name, static_cast<int64_t>(list.size()), kMaxChatMessages,
                              "messages")) {
    return;
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = absl::StrCat(name, "[", i, "]");
    if (items && ReadCallItem(list[i], path, out, violations)) continue;
    ReadMessage(list[i], path, out, violations);
  }
}

}  // namespace

void ReadChatMessages(const JsonFields& fields, const char* name, v1::GenerateRequest* request,
                      Violations* violations) {
  const json* messages = fields.Find(name);
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return fields.Fault(name, "must be a list of at least one message");
  }
  ReadList(*messages, name, /*items=*/false, request->mutable_messages(), violations);
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
    ReadList(*input, "input", /*items=*/true, out, violations);
  } else {
    fields.Fault("input", "must be a string or a list of at least one message");
  }
}

namespace {

// One of `tools`, in chat's form ({"type", "function": {...}}) or that of responses, which has the
// function's fields beside the type.
nlohmann::ordered_json ReadTool(const JsonFields& tool, const json& whole) {
  const std::string type = tool.String("type").value_or("function");
  if (type != "function") {
    tool.Fault("type", absl::StrCat("is ", Quoted(type), ", but only functions are supported"));
    return nullptr;
  }
  json function = whole;
  if (const json* const inner = tool.Find("function"); inner != nullptr) {
    function = *inner;
  } else {
    function.erase("type");
    function.erase("strict");
  }
  if (!function.is_object() || !function.contains("name") || !function["name"].is_string()) {
    tool.Fault("function", "has no name");
    return nullptr;
  }
  // As OpenAI's clients write them.
  nlohmann::ordered_json ordered = {{"type", "function"}};
  for (const char* key : {"name", "description", "parameters"}) {
    if (function.contains(key)) ordered["function"][key] = function[key];
  }
  return ordered;
}

// {"mode", "tools": [{"type": "function", ...}]}.
void ReadAllowedTools(const JsonFields& allowed, v1::ToolChoice* choice) {
  const std::string mode = allowed.String("mode").value_or("");
  if (mode == "required") {
    choice->set_mode(v1::TOOL_CHOICE_MODE_REQUIRED);
  } else if (mode != "auto") {
    return allowed.Fault("mode", absl::StrCat("is ", Quoted(mode), "; use auto or required"));
  }
  const json* const tools = allowed.Find("tools");
  bool good = tools != nullptr && tools->is_array() && !tools->empty();
  for (size_t i = 0; good && i < tools->size(); ++i) {
    const json& tool = (*tools)[i];
    good = tool.is_object() && tool.value("type", json("function")) == "function";
    if (!good) break;
    const json function = tool.value("function", tool);
    good = function.is_object() && function.contains("name") && function["name"].is_string();
    if (good) choice->add_allowed_tools(function["name"].get<std::string>());
  }
  if (!good) allowed.Fault("tools", "must be a list of functions with a name, at least one");
}

void ReadChoice(const JsonFields& fields, v1::ToolChoice* choice) {
  const json* const given = fields.Find("tool_choice");
  if (given == nullptr || *given == "auto") return;
  if (*given == "none") return choice->set_mode(v1::TOOL_CHOICE_MODE_NONE);
  if (*given == "required") return choice->set_mode(v1::TOOL_CHOICE_MODE_REQUIRED);
  const auto named = given->is_object() ? fields.Object("tool_choice") : std::nullopt;
  const std::string type = named ? named->String("type").value_or("") : "";
  if (type == "function") {
    const auto function = named->Object("function");
    choice->set_mode(v1::TOOL_CHOICE_MODE_NAMED);
    return choice->set_name((function ? *function : *named).String("name").value_or(""));
  }
  // Chat has it in an object of its own, responses have not.
  if (type == "allowed_tools") {
    const auto allowed = named->Object("allowed_tools");
    return ReadAllowedTools(allowed ? *allowed : *named, choice);
  }
  fields.Fault("tool_choice",
               "must be \"none\", \"auto\", \"required\", {\"type\": \"function\", ...} or "
               "{\"type\": \"allowed_tools\", ...}");
}

}  // namespace

void ReadTools(const JsonFields& fields, v1::GenerateRequest* request, Violations* violations) {
  for (const char* name : {"functions", "function_call"}) {
    const json* const old = fields.Find(name);
    if (old != nullptr && !old->empty() && *old != "none") {
      fields.Fault(name, "is of an older API; send tools and tool_choice");
    }
  }
  const json* const tools = fields.Find("tools");
  if (tools != nullptr && !tools->is_array()) return fields.Fault("tools", "must be a list");
  v1::ToolChoice choice;
  ReadChoice(fields, &choice);
  choice.set_at_most_one(!fields.Bool("parallel_tool_calls").value_or(true));
  if (tools == nullptr || tools->empty()) {
    if (choice.mode() == v1::TOOL_CHOICE_MODE_REQUIRED ||
        choice.mode() == v1::TOOL_CHOICE_MODE_NAMED || choice.allowed_tools_size() > 0) {
      fields.Fault("tool_choice", "there are no tools to choose from");
    }
    return;
  }
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string path = absl::StrCat("tools[", i, "]");
    if (!(*tools)[i].is_object()) return violations->Add(path, "must be an object");
    list.push_back(ReadTool(JsonFields((*tools)[i], path + ".", violations), (*tools)[i]));
  }
  v1::ChatMessages* const messages = request->mutable_messages();
  messages->set_tools_json(list.dump());
  *messages->mutable_tool_choice() = std::move(choice);
}

void KeepToolsAsWritten(absl::string_view body, v1::GenerateRequest* request) {
  if (request->messages().tools_json().empty()) return;
  const absl::string_view raw = JsonMember(body, {"tools"});
  const json tools = json::parse(raw.begin(), raw.end(), nullptr, /*allow_exceptions=*/false);
  if (!tools.is_array()) return;
  for (const json& tool : tools) {
    if (!tool.is_object() || !tool.contains("function")) return;
  }
  request->mutable_messages()->set_tools_json(std::string(raw));
}

void ReadTemplateFields(const JsonFields& fields, v1::ChatMessages* messages) {
  json kwargs = json::object();
  if (const json* given = fields.Find("chat_template_kwargs"); given != nullptr) {
    if (!given->is_object()) return fields.Fault("chat_template_kwargs", "must be an object");
    kwargs = *given;
  }
  auto effort = fields.String("reasoning_effort");
  if (const auto reasoning = fields.Object("reasoning"); reasoning && !effort) {
    effort = reasoning->String("effort");  // where responses have it
  }
  if (effort) kwargs["reasoning_effort"] = *effort;
  if (!kwargs.empty()) messages->set_template_kwargs_json(kwargs.dump());
  if (const auto add = fields.Bool("add_generation_prompt")) {
    messages->set_add_generation_prompt(*add);
  }
  if (const auto goes_on = fields.Bool("continue_final_message")) {
    messages->set_continue_final_message(*goes_on);
  }
}

void ReadConversation(const JsonFields& fields, absl::string_view body,
                      v1::GenerateRequest* request, Violations* violations) {
  ReadChatMessages(fields, "messages", request, violations);
  ReadTools(fields, request, violations);
  KeepToolsAsWritten(body, request);
  ReadTemplateFields(fields, request->mutable_messages());
  if (fields.Bool("add_special_tokens").value_or(false)) {
    fields.Fault("add_special_tokens",
                 "the chat template writes the special tokens itself; leave it out");
  }
}

}  // namespace kvasir
