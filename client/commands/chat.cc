// kvasir chat: turns on one session, whose KV cache the server keeps between them.
//
// Models with a chat template get messages, the whole history each time (the template decides how
// turns join; the common prefix comes from the session's cache). Models without one get the lines
// as they are, as a continuation.
#include <unistd.h>

#include <iostream>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/answer_printer.h"
#include "client/byte_text.h"
#include "client/commands/command.h"
#include "client/commands/constraint_flags.h"
#include "client/commands/shown_prompt.h"
#include "client/interrupt_watcher.h"
#include "client/json_output.h"

namespace kvasir {
namespace {

struct ChatFlags {
  std::string model;
  std::string session_id;
  std::optional<std::string> system;
  std::optional<float> temperature, top_p;
  std::optional<int32_t> max_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  ConstraintFlags constraint;  // of each answer
  bool plain = false;
  bool show_prompt = false;
  bool keep_session = false;
};

void Register(FlagSet& set, ChatFlags* f) {
  set.Add("model", "M", "model to ask; may be absent when the daemon serves one", &f->model);
  set.Add("session_id", "ID", "session to start or go on with (default: a new random name)",
          &f->session_id);
  set.Add("keep_session", "leave the session on the server when the chat ends", &f->keep_session);
  set.Add("plain", "send lines as plain text even when the model has a chat template", &f->plain);
  set.Add("system", "TEXT", "system message, for models with a chat template", &f->system);
  set.Add("show_prompt", "show each turn's whole prompt, on standard error or as the field prompt",
          &f->show_prompt);
  set.Add("max_tokens", "N", "most tokens per answer", &f->max_tokens);
  set.Add("temperature", "X", "0 = greedy", &f->temperature);
  set.Add("top_p", "X", "smallest set of tokens with this mass", &f->top_p);
  set.Add("seed", "N", "same seed, same tokens", &f->seed);
  f->constraint.Register(set);
  set.Add("stop", "TEXT", "end an answer before this text; repeatable", &f->stop);
}

std::string RandomSessionId() {
  std::random_device random;
  return absl::StrFormat("chat-%08x%08x", random(), random());
}

class Chat {
 public:
  // `sampling`: the constraint of every answer, if there is one.
  Chat(const CommandLine& line, const ChatFlags& flags, const v1::Sampling& sampling,
       GenerationClient* client, InterruptWatcher* interrupts)
      : line_(line),
        flags_(flags),
        sampling_(sampling),
        client_(client),
        interrupts_(interrupts),
        use_template_(!flags.plain) {
    if (flags_.system.has_value()) Append("system", *flags_.system, &history_);
  }

  // One turn. Cancelled (by Ctrl-C) and refused turns leave the chat as it was.
  absl::Status Turn(const std::string& text) {
    absl::StatusOr<GenerateResult> result = Ask(text);
    if (use_template_ && absl::IsUnimplemented(result.status())) {
      // A system message has no place in plain text, and must not be lost in silence.
      if (flags_.system.has_value()) return result.status();
      std::cerr << "(this model has no chat template: lines go to it as plain text)\n";
      use_template_ = false;
      result = Ask(text);
    }
    if (!result.ok()) return result.status();
    Append("user", text, &history_);
    AppendAnswer(result->outputs.front(), &history_);
    ++turns_;
    Report(*result);
    return absl::OkStatus();
  }

 private:
  static void Append(const std::string& role, const std::string& content,
                     v1::ChatMessages* messages) {
    v1::ChatMessage* message = messages->add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  // What the model thought is its template's to show again.
  static void AppendAnswer(const GenerateResult::Output& answer, v1::ChatMessages* messages) {
    if (answer.reasoning.empty()) return Append("assistant", answer.text, messages);
    const nlohmann::ordered_json message = {
        {"role", "assistant"}, {"content", answer.text}, {"reasoning_content", answer.reasoning}};
    messages->add_messages()->set_json(message.dump());
  }

  v1::GenerateRequest MakeRequest(const std::string& text) const {
    v1::GenerateRequest request;
    request.set_model(flags_.model);
    request.set_session_id(flags_.session_id);
    if (use_template_) {
      *request.mutable_messages() = history_;
      Append("user", text, request.mutable_messages());
      request.set_session_input(v1::SESSION_INPUT_FULL_HISTORY);
    } else {
      // A line of its own after what was said before.
      request.set_text(turns_ == 0 ? text : absl::StrCat("\n", text));
      request.set_session_input(v1::SESSION_INPUT_CONTINUATION);
    }
    *request.mutable_sampling() = sampling_;
    if (flags_.temperature) request.mutable_sampling()->set_temperature(*flags_.temperature);
    if (flags_.top_p) request.mutable_sampling()->set_top_p(*flags_.top_p);
    if (flags_.seed) request.mutable_sampling()->set_seed(*flags_.seed);
    if (flags_.max_tokens) request.mutable_stopping()->set_max_tokens(*flags_.max_tokens);
    for (const std::string& stop : flags_.stop) request.mutable_stopping()->add_stop(stop);
    return request;
  }

  absl::StatusOr<GenerateResult> Ask(const std::string& text) {
    const v1::GenerateRequest request = MakeRequest(text);
    if (flags_.show_prompt) {
      auto shown = ShownPrompt(request, line_.MakeCallOptions(), client_);
      if (!shown.ok()) return shown.status();
      prompt_ = *std::move(shown);
      if (!line_.json()) PrintPrompt(prompt_);
    }
    Canceller canceller;
    interrupts_->SetAction([&] { canceller.Cancel(); });
    CallOptions options = line_.MakeCallOptions();
    options.canceller = &canceller;
    AnswerPrinter printer(&std::cout, isatty(STDOUT_FILENO) != 0);
    auto result = client_->Generate(request, options, [&](const v1::Delta& delta) {
      if (!line_.json()) printer.Print(delta);
      return true;
    });
    if (!line_.json()) result.ok() ? printer.Finish() : printer.Abandon();
    // Waits for a Ctrl-C that is being served, so that the canceller outlives it.
    interrupts_->SetAction(nullptr);
    return result;
  }

  void Report(const GenerateResult& result) const {
    if (line_.json()) {
      nlohmann::ordered_json json = ToJson(result);
      json["session_id"] = flags_.session_id;
      if (flags_.show_prompt) json["prompt"] = prompt_;
      std::cout << DumpJson(json) << std::endl;
    } else if (isatty(STDERR_FILENO) != 0) {
      const v1::Usage& usage = result.usage;
      std::cerr << absl::StrFormat(
          "  (%d prompt tokens, %d from cache; %d generated; KV peak %s; first token %.0f ms)\n",
          usage.prompt_tokens(), usage.cached_tokens(), usage.completion_tokens(),
          ByteText(usage.kv_bytes_peak()), usage.time_to_first_token_seconds() * 1e3);
    }
  }

  const CommandLine& line_;
  const ChatFlags& flags_;
  const v1::Sampling sampling_;
  GenerationClient* const client_;
  InterruptWatcher* const interrupts_;
  bool use_template_;
  v1::ChatMessages history_;
  std::string prompt_;  // of the last turn, with show_prompt
  int turns_ = 0;
};

}  // namespace

int RunChat(const Arguments& arguments) {
  CommandLine line("chat", "[flags]",
                   "Talks with a model: each line from standard input is a turn. The session's KV "
                   "cache stays on the\n"
                   "server between turns. Ctrl-C cancels an answer, Ctrl-D or /exit ends the chat. "
                   "With --json each\n"
                   "turn prints one JSON object.");
  ChatFlags flags;
  Register(line.flags(), &flags);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (!line.positional().empty())
    return line.UsageError("takes no arguments: lines are read from standard input");
  if (flags.session_id.empty()) flags.session_id = RandomSessionId();
  v1::Sampling sampling;
  if (const absl::Status filled = flags.constraint.Fill(&sampling); !filled.ok())
    return line.UsageError(std::string(filled.message()));

  InterruptWatcher interrupts;
  const auto client = line.MakeClient();
  Chat chat(line, flags, sampling, client.get(), &interrupts);
  const bool interactive = !line.json() && isatty(STDIN_FILENO) != 0;
  int exit_code = kExitOk;
  std::string text;
  for (;;) {
    if (interactive) std::cout << "> " << std::flush;
    if (!std::getline(std::cin, text) || text == "/exit") break;
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    const absl::Status status = chat.Turn(text);
    // A person can try again; a script is told.
    if (!status.ok()) {
      exit_code = line.Fail(status);
      if (!interactive) break;
      exit_code = kExitOk;
    }
  }
  if (!flags.keep_session) {
    v1::DeleteSessionRequest request;
    request.set_model(flags.model);
    request.set_session_id(flags.session_id);
    // A session that no turn created is not there to delete, and the server's time limit takes one
    // that cannot be.
    (void)client->DeleteSession(request);
  }
  return exit_code;
}

}  // namespace kvasir
