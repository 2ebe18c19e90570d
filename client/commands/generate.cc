// kvasir generate: one request, its text streamed to the terminal or its result as one JSON object.
#include <unistd.h>

#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "client/answer_printer.h"
#include "client/byte_text.h"
#include "client/commands/command.h"
#include "client/commands/constraint_flags.h"
#include "client/commands/shown_prompt.h"
#include "client/conversation_file.h"
#include "client/interrupt_watcher.h"
#include "client/json_input.h"
#include "client/json_output.h"
#include "client/message_json.h"
#include "google/protobuf/text_format.h"
#include "nlohmann/json.hpp"

namespace kvasir {
namespace {

// As the flags fill it; absent = the server's or the model's default.
struct GenerateFlags {
  std::string model;
  std::optional<std::vector<int32_t>> token_ids;
  std::optional<std::string> prompt_file;
  std::optional<std::string> messages_file, tools_file, tool_choice;
  bool at_most_one_call = false;
  bool chat = false;
  std::optional<std::string> system;

  std::optional<float> temperature, top_p, min_p, repetition_penalty, presence_penalty,
      frequency_penalty;
  std::optional<int32_t> top_k, n;
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;
  ConstraintFlags constraint;

  std::optional<int32_t> max_tokens, min_tokens;
  std::vector<std::string> stop;
  std::optional<std::vector<int32_t>> stop_token_ids;
  std::optional<bool> ignore_eos;

  std::optional<int32_t> logprobs, prompt_logprobs;
  std::optional<float> sparq;
  std::string attention;
  std::string speculative;
  std::optional<int32_t> max_draft_tokens;
  std::optional<bool> skip_special_tokens, add_special_tokens, parse_special_tokens;

  std::optional<std::string> session_id;
  std::string session_input;
  std::string cache_salt;
  std::optional<int32_t> priority;
  std::string request_id;
  bool stats = false;
  bool show_prompt = false;
};

void Register(FlagSet& set, GenerateFlags* f) {
  set.Add("model", "M", "model to ask; may be absent when the daemon serves one", &f->model);
  set.Add("token_ids", "1,2,3", "the prompt as token ids, taken as they are", &f->token_ids);
  set.Add("prompt_file", "FILE", "read the prompt from a file; - = standard input",
          &f->prompt_file);
  set.Add("messages", "FILE",
          "a conversation as JSON, for the model's chat template; - = standard input",
          &f->messages_file);
  set.Add("tools", "FILE",
          "a JSON list of tools that the model may call, with --messages or --chat",
          &f->tools_file);
  set.Add("tool_choice", "WHAT",
          "auto (default), none, required, or the name of a tool; with tools", &f->tool_choice);
  set.Add("at_most_one_call", "no call after the first", &f->at_most_one_call);
  set.Add("chat", "send the prompt as a user message through the model's chat template", &f->chat);
  set.Add("system", "TEXT", "system message, with --chat", &f->system);
  set.Add("max_tokens", "N", "most tokens to generate", &f->max_tokens);
  set.Add("min_tokens", "N", "no end before this many tokens", &f->min_tokens);
  set.Add("temperature", "X", "0 = greedy, up to 100", &f->temperature);
  set.Add("top_p", "X", "smallest set of tokens with this mass, (0, 1]", &f->top_p);
  set.Add("top_k", "N", "only the N likeliest tokens, 0 = all", &f->top_k);
  set.Add("min_p", "X", "drop tokens below X times the likeliest, [0, 1]", &f->min_p);
  set.Add("repetition_penalty", "X", "(0, 10], 1 = none", &f->repetition_penalty);
  set.Add("presence_penalty", "X", "[-2, 2], 0 = none", &f->presence_penalty);
  set.Add("frequency_penalty", "X", "[-2, 2], 0 = none", &f->frequency_penalty);
  set.Add("logit_bias", "ID:BIAS,...", "added to the logits of these token ids; repeatable",
          &f->logit_bias);
  set.Add("seed", "N", "same seed, same tokens", &f->seed);
  set.Add("n", "N", "completions of the same prompt", &f->n);
  f->constraint.Register(set);
  set.Add("stop", "TEXT", "end before this text; repeatable", &f->stop);
  set.Add("stop_token_ids", "1,2,3", "end at these tokens", &f->stop_token_ids);
  set.Add("ignore_eos", "go on past the end-of-sequence token", &f->ignore_eos);
  set.Add("logprobs", "K",
          "log-probabilities with K alternatives per generated token (with --json)", &f->logprobs);
  set.Add("prompt_logprobs", "K", "the same for the prompt's tokens", &f->prompt_logprobs);
  set.Add("sparq", "X", "SparQ attention that reads 1/X of the K/V in long contexts, 1 to 64",
          &f->sparq);
  set.Add("attention", "TEXT",
          "how to attend, in protobuf's text form: 'auto {}', 'sparq { rank: 16 least_mass: 0.9 }'",
          &f->attention);
  set.Add("speculative", "WHAT",
          "guess next tokens and check them together: ngram, draft (the model's own) or off",
          &f->speculative);
  set.Add("max_draft_tokens", "N", "most guesses that a step checks", &f->max_draft_tokens);
  set.Add("skip_special_tokens", "=false shows special tokens in the text",
          &f->skip_special_tokens);
  set.Add("add_special_tokens", "=false leaves out the tokenizer's BOS", &f->add_special_tokens);
  set.Add("parse_special_tokens", "text that spells a special token is that token",
          &f->parse_special_tokens);
  set.Add("session_id", "ID", "keep the KV cache under this name for the next turn",
          &f->session_id);
  set.Add("session_input", "WHAT", "continuation (default) or full_history", &f->session_input);
  set.Add("cache_salt", "TEXT", "share cached prompts with requests of the same salt only",
          &f->cache_salt);
  set.Add("priority", "N", "larger is served first, -100 to 100", &f->priority);
  set.Add("request_id", "ID", "name of the request in logs and for 'kvasir abort'", &f->request_id);
  set.Add("show_prompt",
          "show what the chat template makes of the messages, on standard error or as the field "
          "prompt",
          &f->show_prompt);
  set.Add("stats", "print usage and KV cost on standard error after the text", &f->stats);
}

absl::Status FillPrompt(const GenerateFlags& f, const std::vector<std::string>& words,
                        v1::GenerateRequest* request) {
  const int sources = (f.token_ids.has_value() ? 1 : 0) + (f.prompt_file.has_value() ? 1 : 0) +
                      (f.messages_file.has_value() ? 1 : 0) + (words.empty() ? 0 : 1);
  if (sources != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        sources,
        " prompts given; give exactly one of PROMPT, --token_ids, --prompt_file and --messages"));
  }
  if (f.system.has_value() && !f.chat) {
    return absl::InvalidArgumentError("--system goes with --chat; in a file it is a message");
  }
  if (f.messages_file.has_value()) {
    if (f.chat) return absl::InvalidArgumentError("--chat takes a text, not --messages");
    absl::StatusOr<std::string> content = ReadTextFile(*f.messages_file);
    if (!content.ok()) return content.status();
    absl::StatusOr<v1::ChatMessages> messages = ParseConversation(*content);
    if (!messages.ok()) return messages.status();
    *request->mutable_messages() = *std::move(messages);
    return absl::OkStatus();
  }
  if (f.token_ids.has_value()) {
    if (f.chat) return absl::InvalidArgumentError("--chat takes a text, not --token_ids");
    request->mutable_token_ids()->mutable_ids()->Add(f.token_ids->begin(), f.token_ids->end());
    return absl::OkStatus();
  }
  std::string text = absl::StrJoin(words, " ");
  if (f.prompt_file.has_value()) {
    absl::StatusOr<std::string> content = ReadTextFile(*f.prompt_file);
    if (!content.ok()) return content.status();
    text = *std::move(content);
  }
  if (!f.chat) {
    request->set_text(text);
    return absl::OkStatus();
  }
  if (f.system.has_value()) {
    v1::ChatMessage* system = request->mutable_messages()->add_messages();
    system->set_role("system");
    system->set_content(*f.system);
  }
  v1::ChatMessage* user = request->mutable_messages()->add_messages();
  user->set_role("user");
  user->set_content(text);
  return absl::OkStatus();
}

void FillToolChoice(const std::string& choice, v1::ToolChoice* out) {
  if (choice == "auto") {
    out->set_mode(v1::TOOL_CHOICE_MODE_AUTO);
  } else if (choice == "none") {
    out->set_mode(v1::TOOL_CHOICE_MODE_NONE);
  } else if (choice == "required") {
    out->set_mode(v1::TOOL_CHOICE_MODE_REQUIRED);
  } else {
    out->set_mode(v1::TOOL_CHOICE_MODE_NAMED);
    out->set_name(choice);
  }
}

// A list of tools, or an object that has one in `tools`.
absl::Status FillTools(const GenerateFlags& f, v1::GenerateRequest* request) {
  if ((f.tools_file || f.tool_choice || f.at_most_one_call) && !request->has_messages()) {
    return absl::InvalidArgumentError(
        "--tools, --tool_choice and --at_most_one_call go with --messages or --chat");
  }
  if (f.tool_choice.has_value()) {
    FillToolChoice(*f.tool_choice, request->mutable_messages()->mutable_tool_choice());
  }
  if (f.at_most_one_call) {
    request->mutable_messages()->mutable_tool_choice()->set_at_most_one(true);
  }
  if (!f.tools_file.has_value()) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const std::string content, ReadTextFile(*f.tools_file));
  KVASIR_ASSIGN_OR_RETURN(const nlohmann::ordered_json json,
                          ParseJsonInput(content, absl::StrCat("--tools ", *f.tools_file)));
  const bool inside = json.is_object() && json.contains("tools");
  const auto& list = inside ? json.at("tools") : json;
  if (!list.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tools ", *f.tools_file, " holds no JSON list of tools"));
  }
  request->mutable_messages()->set_tools_json(list.dump());
  return absl::OkStatus();
}

absl::Status FillLogitBias(const std::vector<std::string>& lists, v1::Sampling* sampling) {
  for (const std::string& list : lists) {
    for (absl::string_view entry : absl::StrSplit(list, ',')) {
      const std::vector<absl::string_view> parts = absl::StrSplit(entry, ':');
      int32_t id = 0;
      float bias = 0;
      if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &id) ||
          !absl::SimpleAtof(parts[1], &bias)) {
        return absl::InvalidArgumentError(
            absl::StrCat("--logit_bias got '", entry, "' but takes ID:BIAS, such as 42:-100"));
      }
      (*sampling->mutable_logit_bias())[id] = bias;
    }
  }
  return absl::OkStatus();
}

void FillSampling(const GenerateFlags& f, v1::Sampling* sampling) {
  if (f.temperature) sampling->set_temperature(*f.temperature);
  if (f.top_p) sampling->set_top_p(*f.top_p);
  if (f.top_k) sampling->set_top_k(*f.top_k);
  if (f.min_p) sampling->set_min_p(*f.min_p);
  if (f.repetition_penalty) sampling->set_repetition_penalty(*f.repetition_penalty);
  if (f.presence_penalty) sampling->set_presence_penalty(*f.presence_penalty);
  if (f.frequency_penalty) sampling->set_frequency_penalty(*f.frequency_penalty);
  if (f.seed) sampling->set_seed(*f.seed);
  if (f.n) sampling->set_n(*f.n);
}

void FillStopping(const GenerateFlags& f, v1::Stopping* stopping) {
  if (f.max_tokens) stopping->set_max_tokens(*f.max_tokens);
  if (f.min_tokens) stopping->set_min_tokens(*f.min_tokens);
  for (const std::string& stop : f.stop) stopping->add_stop(stop);
  if (f.stop_token_ids)
    stopping->mutable_stop_token_ids()->Add(f.stop_token_ids->begin(), f.stop_token_ids->end());
  if (f.ignore_eos) stopping->set_ignore_eos(*f.ignore_eos);
}

absl::Status FillSession(const GenerateFlags& f, v1::GenerateRequest* request) {
  if (f.session_id) request->set_session_id(*f.session_id);
  request->set_cache_salt(f.cache_salt);
  if (f.session_input == "continuation") {
    request->set_session_input(v1::SESSION_INPUT_CONTINUATION);
  } else if (f.session_input == "full_history") {
    request->set_session_input(v1::SESSION_INPUT_FULL_HISTORY);
  } else if (!f.session_input.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--session_input got '", f.session_input,
                                                   "' but takes continuation or full_history"));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::GenerateRequest> MakeRequest(const GenerateFlags& f,
                                                const std::vector<std::string>& words) {
  v1::GenerateRequest request;
  request.set_model(f.model);
  request.set_request_id(f.request_id);
  FillSampling(f, request.mutable_sampling());
  FillStopping(f, request.mutable_stopping());
  if (f.logprobs) request.mutable_output()->set_logprobs(*f.logprobs);
  if (f.prompt_logprobs) request.mutable_output()->set_prompt_logprobs(*f.prompt_logprobs);
  if (f.sparq) request.mutable_attention()->mutable_sparq()->set_compression(*f.sparq);
  if (!f.attention.empty()) {
    if (f.sparq) return absl::InvalidArgumentError("--sparq and --attention exclude each other");
    if (!google::protobuf::TextFormat::ParseFromString(f.attention, request.mutable_attention())) {
      return absl::InvalidArgumentError(
          absl::StrCat("--attention '", f.attention,
                       "' is no kvasir.v1.Attention; write 'auto {}', 'dense {}' or 'sparq { rank: "
                       "16 }'"));
    }
  }
  if (f.speculative == "ngram") {
    request.mutable_speculation()->set_mode(v1::SPECULATION_MODE_NGRAM);
  } else if (f.speculative == "draft") {
    request.mutable_speculation()->set_mode(v1::SPECULATION_MODE_DRAFT);
  } else if (f.speculative == "off") {
    request.mutable_speculation()->set_mode(v1::SPECULATION_MODE_OFF);
  } else if (!f.speculative.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--speculative '", f.speculative, "' is none of ngram, draft and off"));
  }
  if (f.max_draft_tokens) request.mutable_speculation()->set_max_draft_tokens(*f.max_draft_tokens);
  if (f.skip_special_tokens)
    request.mutable_output()->set_skip_special_tokens(*f.skip_special_tokens);
  if (f.add_special_tokens) request.set_add_special_tokens(*f.add_special_tokens);
  if (f.parse_special_tokens) request.set_parse_special_tokens(*f.parse_special_tokens);
  if (f.priority) request.set_priority(*f.priority);
  for (const absl::Status& status :
       {FillPrompt(f, words, &request), FillTools(f, &request), FillSession(f, &request),
        FillLogitBias(f.logit_bias, request.mutable_sampling()),
        f.constraint.Fill(request.mutable_sampling())}) {
    if (!status.ok()) return status;
  }
  return request;
}

void PrintStats(const GenerateResult& result) {
  const v1::Usage& usage = result.usage;
  std::cerr << "prompt " << usage.prompt_tokens() << " tokens (" << usage.cached_tokens()
            << " from cache), completion " << usage.completion_tokens() << " tokens, "
            << EnumText(result.outputs.front().end.finish_reason()) << "\n"
            << "KV cache: peak " << ByteText(usage.kv_bytes_peak()) << " (" << usage.kv_bytes_peak()
            << " bytes), read by attention " << ByteText(usage.kv_bytes_read()) << ", held "
            << absl::StrFormat("%.3f MiB·s", usage.kv_byte_seconds() / (1 << 20)) << ", preempted "
            << usage.preemptions() << " times\n";
  if (usage.drafted_tokens() > 0) {
    std::cerr << "speculation: " << usage.accepted_tokens() << " of " << usage.drafted_tokens()
              << " guessed tokens accepted\n";
  }
  std::cerr << absl::StrFormat(
      "time: queue %.1f ms, first token %.1f ms, total %.1f ms\n", usage.queue_seconds() * 1e3,
      usage.time_to_first_token_seconds() * 1e3, usage.total_seconds() * 1e3);
}

void PrintText(const GenerateResult& result) {
  if (result.outputs.size() == 1) return;  // the text has been streamed already
  for (size_t i = 0; i < result.outputs.size(); ++i) {
    std::cout << "[" << i << "] " << result.outputs[i].text << std::endl;
    for (const v1::ToolCallDelta& call : result.outputs[i].tool_calls) {
      std::cout << "[" << i << "] -> " << call.name() << " " << call.arguments() << std::endl;
    }
  }
}

}  // namespace

int RunGenerate(const Arguments& arguments) {
  CommandLine line("generate",
                   "[flags] [PROMPT | --token_ids 1,2,3 | --prompt_file FILE | --messages FILE]",
                   "Generates text. Without --json the text streams to standard output; Ctrl-C "
                   "cancels the request.\n"
                   "Sampling flags that are absent take the model's own defaults.");
  GenerateFlags flags;
  Register(line.flags(), &flags);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  const auto request = MakeRequest(flags, line.positional());
  if (!request.ok()) return line.UsageError(std::string(request.status().message()));
  if (flags.show_prompt && !request->has_messages())
    return line.UsageError("--show_prompt goes with --messages or --chat");

  InterruptWatcher interrupts;
  Canceller canceller;
  interrupts.SetAction([&] { canceller.Cancel(); });
  const auto client = line.MakeClient();
  CallOptions options = line.MakeCallOptions();
  options.canceller = &canceller;
  std::string prompt;
  if (flags.show_prompt) {
    auto shown = ShownPrompt(*request, line.MakeCallOptions(), client.get());
    if (!shown.ok()) return line.Fail(shown.status());
    prompt = *std::move(shown);
    if (!line.json()) PrintPrompt(prompt);
  }

  // Interleaved pieces of several completions would be unreadable: those are printed at the end.
  const bool stream_text = !line.json() && flags.n.value_or(1) == 1;
  AnswerPrinter printer(&std::cout, isatty(STDOUT_FILENO) != 0);
  const auto result = client->Generate(*request, options, [&](const v1::Delta& delta) {
    if (stream_text) printer.Print(delta);
    return static_cast<bool>(std::cout);  // nobody reads any more: stop generating
  });
  interrupts.SetAction(nullptr);
  if (!result.ok()) {
    if (stream_text) printer.Abandon();
    const int exit_code = line.Fail(result.status());
    return canceller.cancelled() ? kExitInterrupted : exit_code;
  }
  if (line.json()) {
    nlohmann::ordered_json json = ToJson(*result);
    if (flags.show_prompt) json["prompt"] = prompt;
    std::cout << DumpJson(json) << std::endl;
  } else {
    if (stream_text) printer.Finish();
    PrintText(*result);
  }
  if (flags.stats) PrintStats(*result);
  return kExitOk;
}

}  // namespace kvasir
