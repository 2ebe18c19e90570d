// ChatTemplate: conversations to prompts, by a model's own Jinja templates and in the way of the
// field's reference (text/kvasir_text.h).
//
// Owned by the loaded model. Immutable after loading: every method is const and may be called from
// any thread, and none blocks.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/tokenizer/tokenizer.h"
#include "text/kvasir_text.h"

namespace kvasir {

class ChatTemplate {
 public:
  using Named = std::pair<std::string, std::string>;  // name ("default", "tool_use"), source

  // The templates of a Hugging Face folder, whichever is there first: chat_template.jinja (with
  // additional_chat_templates/*.jinja), chat_template in tokenizer_config.json, chat_template.json.
  // `override_file`, when not empty, is a Jinja file that takes the place of them all. `tokenizer`
  // is borrowed for this call.
  // Errors: Unimplemented when the model has no template; InvalidArgument for one that is broken,
  // with its line; those of reading the files.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& folder,
                                                            const std::string& override_file,
                                                            const Tokenizer& tokenizer);

  // Templates from elsewhere (GGUF metadata, tests). `tokenizer_config_json` may be empty; it names
  // special tokens.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> FromSources(
      const std::vector<Named>& templates, absl::string_view tokenizer_config_json,
      const Tokenizer& tokenizer);

  // The text of all its templates, one after the other: for finding out what they speak of.
  const std::string& sources() const { return sources_; }

  // A prompt for Tokenizer::Encode() without add_special_tokens, with parse_special_tokens.
  struct Prompt {
    std::string text;
    // Where the conversation, not the template, spells a special token.
    std::vector<Tokenizer::TextSpan> plain;
  };

  // `conversation_json`: an object with `messages`, and optionally `tools`, `documents`,
  // `add_generation_prompt`, `continue_final_message`, `chat_template` (a template's name) and
  // `kwargs` (further variables of the template).
  // `local_time`: what strftime_now() sees, as LocalTimeText() writes it.
  // Errors: InvalidArgument for a conversation that is not as said, and with the template's own
  // message when it raises one or fails; ResourceExhausted past the limits of steps and output.
  absl::StatusOr<Prompt> Render(absl::string_view conversation_json,
                                absl::string_view local_time) const;

 private:
  struct Free {
    void operator()(KvasirTextChat* chat) const { kvasir_text_chat_free(chat); }
  };

  ChatTemplate(KvasirTextChat* handle, std::string sources)
      : handle_(handle), sources_(std::move(sources)) {}

  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Make(const std::vector<Named>& files,
                                                            absl::string_view tokenizer_config,
                                                            absl::string_view chat_template_json,
                                                            const Tokenizer& tokenizer);

  const std::unique_ptr<KvasirTextChat, Free> handle_;
  const std::string sources_;
};

// "2026-11-28T09:30:00": `time` in this machine's zone.
std::string LocalTimeText(absl::Time time);

// InvalidArgument when `text` is not of that form.
absl::Status CheckLocalTime(absl::string_view text);

}  // namespace kvasir
