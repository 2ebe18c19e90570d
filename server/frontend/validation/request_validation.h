// From the wire to what the engine takes: every limit that generation.proto states is checked here
// and nowhere else.
//
// Two steps, because an overloaded daemon must not tokenise what it will refuse:
// CheckGenerateRequest looks at fields and sizes only and is cheap; EncodePrompt, after admission,
// makes token ids of a text. Stateless functions, safe from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kvasir/v1/generation.pb.h"
#include "runtime/engine/request.h"
#include "runtime/grammar/constraint.h"
#include "runtime/model/model_spec.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/config/attention_policy.h"
#include "server/config/speculation_policy.h"
#include "server/frontend/response/response_reader.h"

namespace kvasir {

// Limits of the API that do not depend on the model; generation.proto names the same numbers.
inline constexpr int32_t kMaxCompletions = 64;
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokenIds = 64;
inline constexpr int kMaxLogitBiasEntries = 1024;
inline constexpr int32_t kMaxLogprobs = 20;
inline constexpr int32_t kMaxAbsolutePriority = 100;
inline constexpr size_t kMaxSessionIdBytes = 128;

// What a request is checked against. Borrows the spec.
struct ModelLimits {
  const ModelSpec* spec = nullptr;
  int32_t max_context_tokens = 0;  // prompt and output together
  int32_t max_running = 0;         // sequences in one step: a request's n must fit
  int32_t default_max_tokens = 256;
  AttentionPolicy attention;
  SpeculationPolicy speculation;
  const ChatTemplate* chat_template = nullptr;      // null when the model has none
  std::string template_time;                        // what it sees; empty = the real time
  const ResponseFormat* response_format = nullptr;  // null: answers are not read
  absl::Span<const TokenId> response_markers;       // special tokens that its reader must see
};

// A request that keeps every limit but those that only its token ids can break.
struct CheckedRequest {
  // prompt is filled when the client sent ids; tenant, arrival and deadline are the caller's to
  // fill.
  GenerationRequest request;

  // What the output must be, to be compiled into request.grammar; absent = any text.
  std::optional<Constraint> constraint;

  // The conversation as ChatTemplate takes it; absent when the client sent no messages.
  std::optional<std::string> conversation;

  // How the answer is read, for messages: absent when it goes out as it is.
  struct Reading {
    std::unique_ptr<const ToolSchemas> tools;  // null: calls are text
    bool continues_message = false;            // the prompt ends inside the model's own message
    bool at_most_one_call = false;
  };
  std::optional<Reading> reading;

  // The prompt as text; absent when the client sent ids or messages.
  struct Text {
    std::string utf8;
    Tokenizer::EncodeOptions options;
  };
  std::optional<Text> text;

  // For admission: exact for ids, a guess for text.
  int64_t prompt_tokens_estimate = 0;
};

// `metadata_request_id` is the value of x-request-id, empty when absent; the field wins over it,
// and with neither a new id is made. Absent sampling fields take the model's defaults, then those
// of generation.proto.
//
// Errors: InvalidArgument with BadRequest details for all fields that break a limit; Unimplemented
// for messages to a model without a chat template.
absl::StatusOr<CheckedRequest> CheckGenerateRequest(v1::GenerateRequest message,
                                                    const ModelLimits& limits,
                                                    absl::string_view metadata_request_id);

// The complete request. InvalidArgument with BadRequest details: the messages cannot be rendered,
// the text cannot be encoded, encodes to nothing, or to more tokens than the context holds. Takes
// time in proportion to the text; `cancelled`, when set, is asked now and then, and true ends it
// with Cancelled. `reader`, when not null, gets what reads the answer: null when it goes out as it
// is.
absl::StatusOr<GenerationRequest> EncodePrompt(CheckedRequest checked, const Tokenizer& tokenizer,
                                               const ModelLimits& limits,
                                               std::unique_ptr<ResponseReader>* reader = nullptr,
                                               std::function<bool()> cancelled = {});

// The conversation of `messages`, as ChatTemplate::Render() takes it. InvalidArgument with
// BadRequest details.
absl::StatusOr<std::string> ConversationJson(const v1::ChatMessages& messages);

// Its prompt. Unimplemented when the model has no template; InvalidArgument with BadRequest
// details and the template's own message.
absl::StatusOr<ChatTemplate::Prompt> RenderConversation(absl::string_view conversation,
                                                        const ModelLimits& limits);

// OK, or InvalidArgument with BadRequest details for `field`: 1 to 128 characters of
// [A-Za-z0-9._-].
absl::Status CheckSessionId(absl::string_view field, absl::string_view id);

}  // namespace kvasir
