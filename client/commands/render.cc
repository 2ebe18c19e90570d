// kvasir render: the prompt that a model's chat template makes of a conversation, and nothing else.
#include <iostream>

#include "client/commands/command.h"
#include "client/conversation_file.h"
#include "client/json_output.h"

namespace kvasir {

int RunRender(const Arguments& arguments) {
  CommandLine line("render", "[flags] --conversation FILE",
                   "Prints the prompt that the model's chat template makes of a conversation: a "
                   "JSON object with messages, tools,\n"
                   "documents, add_generation_prompt, continue_final_message and kwargs. An error "
                   "of the template ends with exit code 1.");
  std::string model, file;
  line.flags().Add("model", "M", "model to ask; may be absent when the daemon serves one", &model);
  line.flags().Add("conversation", "FILE", "the conversation; - = standard input", &file);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (file.empty() || !line.positional().empty())
    return line.UsageError("give --conversation FILE");

  const auto text = ReadTextFile(file);
  if (!text.ok()) return line.Fail(text.status());
  auto messages = ParseConversation(*text);
  if (!messages.ok()) return line.Fail(messages.status());
  v1::RenderChatRequest request;
  request.set_model(model);
  *request.mutable_messages() = *std::move(messages);
  // As the reference has it: whoever wants the assistant's turn begun says so.
  if (!request.messages().has_add_generation_prompt()) {
    request.mutable_messages()->set_add_generation_prompt(false);
  }
  const auto rendered = line.MakeClient()->RenderChat(request, line.MakeCallOptions());
  if (!rendered.ok()) return line.Fail(rendered.status());
  if (line.json()) {
    const auto& ids = rendered->token_ids();
    std::cout << DumpJson({{"text", rendered->text()},
                           {"token_ids", std::vector<int32_t>(ids.begin(), ids.end())}})
              << std::endl;
  } else {
    std::cout << rendered->text() << std::flush;  // and no newline that is not the template's
  }
  return kExitOk;
}

}  // namespace kvasir
