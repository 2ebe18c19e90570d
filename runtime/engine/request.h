// What the engine is asked and what it answers. Plain values: request_validation fills a
// GenerationRequest from the wire and guarantees its limits, the engine does not check them again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvcache/block_hash.h"
#include "runtime/engine/speculation/speculation_params.h"
#include "runtime/grammar/token_matcher.h"
#include "runtime/ops/sparse/attention_method.h"
#include "runtime/sampling/sampling_params.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class SessionClaim;

struct StoppingParams {
  int32_t max_tokens = 256;  // >= 1
  int32_t min_tokens = 0;    // <= max_tokens
  std::vector<std::string> stop;
  std::vector<TokenId> stop_token_ids;
  bool ignore_eos = false;
};

struct GenerationRequest {
  std::string id;
  std::string tenant;  // scopes sessions, prefix cache and Abort; "" = anonymous

  std::vector<TokenId> prompt;  // not empty, every id below the model's vocabulary size
  // Of prompt's first tokens, those that the tokenizer added (BOS): dropped when the prompt
  // continues a session.
  int32_t automatic_prefix_tokens = 0;

  SamplingParams sampling;
  StoppingParams stopping;
  // What the output must be: a matcher at its beginning, which each completion copies. Null = any
  // text. Without ignore_eos.
  std::shared_ptr<const TokenMatcher> grammar;
  int32_t n = 1;
  std::optional<int32_t> logprobs;         // alternatives per generated token
  std::optional<int32_t> prompt_logprobs;  // alternatives per prompt token
  bool skip_special_tokens = true;
  // Special tokens that are in the text all the same: markers that a reader of it looks for.
  std::vector<TokenId> visible_special_tokens;

  std::string session_id;             // empty = none; then n == 1
  bool session_full_history = false;  // prompt is the whole history, not a continuation
  // Engine::Submit's, with a shared spill directory.
  std::shared_ptr<SessionClaim> session_claim;

  // Only requests of the tenant that have the same one find each other's prompts in the prefix
  // cache; zero: those without one.
  CacheSalt cache_salt = {};

  std::shared_ptr<const AttentionMethod> attention;  // null: dense
  SpeculationParams speculation;  // without effect where the model cannot take back (speculator.h)

  int32_t priority = 0;
  absl::Time arrival = absl::InfinitePast();
  absl::Time deadline = absl::InfiniteFuture();
};

// kToolCalls is never the engine's: a front end that reads calls in the text says it for kEos and
// kGrammar.
enum class FinishReason {
  kEos,
  kStop,
  kLength,
  kContextFull,
  kCancelled,
  kGrammar,  // complete by its grammar, and nothing may follow
  kToolCalls
};
// "eos", "stop", "length", "context_full", "cancelled", "grammar", "tool_calls"
const char* FinishReasonName(FinishReason reason);

struct CompletionResult {
  int32_t index = 0;
  FinishReason reason = FinishReason::kCancelled;
  std::string stop_string;            // kStop by a string
  std::optional<TokenId> stop_token;  // kStop by an id
  int32_t completion_tokens = 0;
  // With a grammar: whether the output is complete by it.
  std::optional<bool> grammar_satisfied;
};

struct RequestUsage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;
  int64_t kv_bytes_peak = 0;
  int64_t state_bytes_peak = 0;  // the recurrent state's part of it
  double kv_byte_seconds = 0;
  int64_t kv_bytes_read = 0;
  int64_t kv_bytes_read_if_dense = 0;  // what dense attention would have read
  int64_t state_bytes_read = 0;        // of recurrent states; not in kv_bytes_read
  int32_t sparse_tokens = 0;           // positions that attended by the request's method
  int64_t drafted_tokens = 0;          // guessed and checked
  int64_t accepted_tokens = 0;         // of them, those that became part of a completion
  int32_t preemptions = 0;
  absl::Duration queue_time;           // arrival to first scheduling
  absl::Duration time_to_first_token;  // arrival to first token; zero if there was none
  absl::Duration total_time;
};

// Events of one request's stream, in this order: Accepted, PromptLogprobs*, Delta*, Finished. A
// request that ends before it was scheduled has only Finished.
struct AcceptedEvent {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
};

struct PromptLogprobsEvent {
  int32_t first_position = 0;
  std::vector<TokenLogprob> tokens;
};

struct DeltaEvent {
  int32_t index = 0;
  std::string text;  // whole UTF-8 characters
  std::vector<TokenId> tokens;
  std::vector<TokenLogprob> logprobs;  // empty, or one per token
};

struct FinishedEvent {
  // OK; Cancelled; DeadlineExceeded; Aborted (session busy); ResourceExhausted (slow reader,
  // sessions); FailedPrecondition (a tenant's quota); InvalidArgument; Internal.
  absl::Status status;
  std::vector<CompletionResult> completions;
  RequestUsage usage;
};

using StreamEvent = std::variant<AcceptedEvent, PromptLogprobsEvent, DeltaEvent, FinishedEvent>;

}  // namespace kvasir
