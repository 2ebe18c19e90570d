// The engine's own view of a request: RequestState is one Generate call, Sequence one token series
// generated for it (n of them). Plain state; the engine thread owns and changes it, nobody else
// sees it.
//
//   tokens:   [ history (session) | prompt | output ............ ]
//   computed: [ table.num_tokens() ................ ]  K/V present; the rest is to be computed
//
// A sequence is in prefill while more than one token is uncomputed, in decode when exactly the
// newest is. Preemption clears the table and nothing else: the sequence then prefills everything it
// knows, and its next sample is the one that it would have drawn anyway. Suspending takes it out of
// the batch and leaves the table: it goes on later where it was.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvcache/block_table.h"
#include "runtime/engine/admission.h"
#include "runtime/engine/request.h"
#include "runtime/engine/speculation/draft_lengths.h"
#include "runtime/engine/speculation/drafter.h"
#include "runtime/engine/stop_checker.h"
#include "runtime/engine/token_stream.h"
#include "runtime/grammar/token_matcher.h"
#include "runtime/sampling/logits_processor.h"
#include "runtime/tokenizer/incremental_detokenizer.h"

namespace kvasir {

struct RequestState;
struct Session;
struct TenantState;

// Restoring: its K/V are read back from disk into blocks that its session holds. It waits for them
// outside the queue and takes no slot.
enum class SequenceState { kWaiting, kRestoring, kRunning, kFinished };

inline constexpr uint64_t kNoRestoresSeen = ~uint64_t{0};

struct Sequence {
  RequestState* request = nullptr;
  int32_t index = 0;  // of the completion

  std::vector<TokenId> tokens;
  int32_t prompt_tokens = 0;  // history included: tokens[prompt_tokens..] is output
  BlockTable table;
  SequenceState state = SequenceState::kWaiting;
  bool was_preempted = false;    // or suspended
  bool paused = false;           // its reader is slow: not scheduled, blocks kept
  bool restore_failed = false;   // what is on the disk is no help: it is computed
  bool prefix_restored = false;  // its beginning was read from the disk, or tried
  // PrefixRestores': when it was told to come later.
  mutable uint64_t restores_seen = kNoRestoresSeen;
  // Tokens below were computed once and charged to the tenant; computing them again is free.
  int32_t charged_tokens = 0;

  TokenCounts counts;
  IncrementalDetokenizer detokenizer;
  StopChecker stop;
  absl::Time last_token_time = absl::InfinitePast();

  std::unique_ptr<DraftState> draft_state;  // null until the first step that could check a draft
  AcceptanceRate acceptance;
  // With a grammar. It stands behind tokens[prompt_tokens..], whatever is computed of them.
  std::unique_ptr<TokenMatcher> matcher;
  std::vector<uint32_t> allowed;  // of the next token, as of the latest step (token_matcher.h)
  absl::Status grammar_status;    // an error ends the request

  Sequence(RequestState* owner, int32_t completion_index, TokenCounts token_counts,
           IncrementalDetokenizer text, StopChecker checker)
      : request(owner),
        index(completion_index),
        counts(std::move(token_counts)),
        detokenizer(std::move(text)),
        stop(std::move(checker)) {}

  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_generated() const { return num_tokens() - prompt_tokens; }
  int32_t num_uncomputed() const { return num_tokens() - table.num_tokens(); }
  bool in_decode() const { return num_uncomputed() == 1 && num_generated() > 0; }
  // In the midst of output whose next tokens its grammar forced: they are computed in one go.
  bool in_forced_run() const {
    return num_generated() > 0 && num_uncomputed() > 1 && table.num_tokens() >= prompt_tokens;
  }
  // Gave its slot in the batch to another tenant, but not its blocks.
  bool suspended() const { return state == SequenceState::kWaiting && !table.empty(); }
};

struct RequestState {
  GenerationRequest request;
  std::shared_ptr<TokenStream> stream;
  AdmissionTicket ticket;  // its place, in the waiting queue until first scheduled
  uint64_t order = 0;      // arrival order; smaller is older
  TenantState* tenant = nullptr;
  int32_t max_tokens = 0;  // per completion, the context's end considered

  // One until the prompt is computed, then n: the others are forks of the first.
  std::vector<std::unique_ptr<Sequence>> sequences;
  int32_t num_finished = 0;
  bool finished = false;  // Finished is pushed; forgotten at the end of the step

  Session* session = nullptr;  // null without session_id

  // It may outgrow the context that longrope's short divisors are for: chosen once, by what it may
  // come to, and for all of its positions.
  bool long_context = false;

  // request.attention for this model and length; null: dense throughout. Positions computed again
  // after a preemption attend as they did, so that it changes no token.
  std::unique_ptr<const ResolvedAttention> method;

  bool begun = false;  // in EngineCore's list of those
  bool accepted_sent = false;
  int32_t prompt_logprobs_done = 1;  // next prompt position to report; the first token has none
  absl::Time first_scheduled = absl::InfinitePast();
  absl::Time first_token = absl::InfinitePast();
  absl::Time stalled_since = absl::InfiniteFuture();

  std::vector<CompletionResult> completions;
  RequestUsage usage;
  int64_t kv_bytes_held = 0;  // as last accounted
  absl::Time kv_accounted_at = absl::InfinitePast();

  int32_t num_live() const { return request.n - num_finished; }
  // Positions from here on attend by the method. Their K/V depend on it and are not for others to
  // find.
  int32_t sparse_from() const {
    return method != nullptr ? method->first_position() : std::numeric_limits<int32_t>::max();
  }
  // Events that one step can push into the stream: a delta per live completion, Accepted or a piece
  // of prompt log-probabilities.
  size_t events_per_step() const { return static_cast<size_t>(num_live()) + 1; }
};

}  // namespace kvasir
