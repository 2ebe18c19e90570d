// One served model: a thread that owns scheduler, KV cache and sequences, and the thread-safe door
// to it.
//
// RPC threads call Admit, Submit, Abort and the queries; they never wait for a step except where a
// method says so. The engine thread takes their commands between steps. Model and tokenizer are
// borrowed and must outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "kvcache/prefix_event_log.h"
#include "runtime/engine/admission.h"
#include "runtime/engine/engine_config.h"
#include "runtime/engine/engine_observer.h"
#include "runtime/engine/request.h"
#include "runtime/engine/token_stream.h"
#include "runtime/model/model.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {

// Whose requests or sessions a list shows: one tenant's ("" = the anonymous one's), or, without a
// value, everyone's.
using TenantScope = std::optional<std::string>;

// Counters and gauges for a scrape; read from atomics, no lock of the engine is taken.
struct EngineStats {
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t waiting_tokens = 0;
  int64_t kv_capacity_bytes = 0;  // live + cached + free
  int64_t kv_live_bytes = 0;
  int64_t kv_cached_bytes = 0;
  int64_t kv_free_bytes = 0;
  int64_t kv_state_live_bytes = 0;    // of live: sequences' recurrent states
  int64_t kv_state_cached_bytes = 0;  // of cached: snapshots of states
  int64_t kv_block_bytes = 0;         // of one block in each group of layers
  int64_t prompt_tokens_total = 0;
  int64_t cached_tokens_total = 0;
  int64_t generated_tokens_total = 0;
  int64_t drafted_tokens_total = 0;   // guessed and checked
  int64_t accepted_tokens_total = 0;  // of them, those that became part of a completion
  int64_t forced_tokens_total = 0;    // of them, those that a grammar left no choice for
  int64_t grammar_masks_total = 0;
  int64_t grammar_mask_nanoseconds_total = 0;  // of whoever computed them
  int64_t preemptions_total = 0;
  int64_t steps_total = 0;
  int64_t kv_bytes_read_dense_total = 0;
  int64_t kv_bytes_read_sparse_total = 0;
  int64_t kv_bytes_read_if_dense_total = 0;  // what dense attention would have read
  int64_t weight_bytes_read_total = 0;
  int64_t state_bytes_read_total = 0;  // of recurrent states, each replaced when read
  int64_t kv_evictions_total = 0;
  int64_t sessions_idle = 0;
  int64_t sessions_busy = 0;
  int64_t sessions_spilled = 0;
  int64_t sessions_evicted = 0;
  int64_t sessions_restoring = 0;  // being read back; those of a turn are not busy meanwhile
  int64_t spill_bytes = 0;
  int64_t prefix_restores = 0;     // prompts whose beginning is being read back
  int64_t prefix_spill_files = 0;  // PrefixSpillStats: blocks on disk
  int64_t prefix_spill_bytes = 0;
  int64_t prefix_spill_written_total = 0;
  int64_t prefix_spill_read_total = 0;
  int64_t prefix_spill_pushed_out_total = 0;
  int64_t prefix_spill_dropped_total = 0;
  int64_t prefix_spill_failed_total = 0;
};

// One row of AdminService.ListRequests.
struct RequestSnapshot {
  std::string id;
  std::string tenant;
  std::string session_id;
  const char* state = "";  // waiting, restoring, prefill, decode, paused, preempted
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t computed_tokens = 0;
  int32_t generated_tokens = 0;
  int32_t priority = 0;
  int64_t kv_bytes_physical = 0;
  int64_t kv_bytes_exclusive = 0;
  double kv_bytes_proportional = 0;
  int64_t state_bytes = 0;             // of physical: the recurrent state
  int64_t kv_bytes_read = 0;           // so far
  int64_t kv_bytes_read_if_dense = 0;  // what dense attention would have read
  absl::Duration age;
};

struct SessionSnapshot {
  std::string id;
  std::string tenant;
  enum class State { kBusy, kIdle, kSpilled, kEvicted, kRestoring } state = State::kIdle;
  int32_t tokens = 0;
  int32_t turns = 0;
  int64_t kv_bytes_physical = 0;
  int64_t kv_bytes_exclusive = 0;
  double kv_bytes_proportional = 0;
  int64_t state_bytes = 0;  // of physical: the recurrent state
  int64_t spilled_bytes = 0;
  absl::Duration idle;
  absl::Duration expires_in;
};

// What one group of layers holds; groups are those of the KvLayout.
struct GroupSnapshot {
  int64_t live_bytes = 0;
  int64_t cached_bytes = 0;
};

// Who holds the KV pool, with the counters, all of one moment between two steps: the proportional
// bytes of requests and sessions sum to stats.kv_live_bytes.
struct EngineAccounts {
  EngineStats stats;
  std::vector<RequestSnapshot> requests;  // largest KV holders first
  std::vector<SessionSnapshot>
      sessions;  // largest first; while a turn runs, the request holds its bytes
  std::vector<GroupSnapshot> groups;  // sum to stats.kv_live_bytes and kv_cached_bytes
};

class Engine {
 public:
  // A place in the engine (admission.h).
  using Ticket = AdmissionTicket;

  // ResourceExhausted (the pool does not fit the memory; the message holds the sum) or
  // InvalidArgument. Warms the model up; blocks until ready to step.
  // draft_model: for requests that speculate with it (SpeculationMode::kDraft), of the same
  // vocabulary and without recurrent states (InvalidArgument); borrowed; null: there is none.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineConfig& config,
                                                        const Model* model,
                                                        const Tokenizer* tokenizer,
                                                        EngineObserver* observer,
                                                        const Clock* clock = Clock::Real(),
                                                        const Model* draft_model = nullptr);
  // Cancels what still runs and joins the thread.
  ~Engine();

  // Takes a place for a request (bytes / 4 of a text is a fair guess of its prompt's tokens).
  // ResourceExhausted: the queue is full, in requests or tokens, or a quota of the tenant.
  // FailedPrecondition: the quota will never allow it. Unavailable: draining.
  absl::StatusOr<Ticket> Admit(AdmissionRequest request);

  // Starts the request. InvalidArgument: the prompt exceeds the context; FailedPrecondition: it
  // could never fit the KV pool (bytes needed and available in the message). With a shared spill
  // directory the calling thread looks the session up in it: Aborted when another replica has it,
  // Unavailable when the directory cannot be read. Later failures (session busy or lost, deadline)
  // come as the stream's Finished event.
  absl::StatusOr<std::shared_ptr<TokenStream>> Submit(Ticket ticket, GenerationRequest request);

  // Ends a request of this tenant with Cancelled. NotFound when it is not waiting or running. Waits
  // for the engine thread to take the command (at most one step).
  absl::Status Abort(const std::string& tenant, const std::string& request_id);

  // New weights and limits from the next step on; nothing that runs is ended for them. Does not
  // wait. Ids are distinct, weights above 0.
  void UpdateTenants(TenantPolicies policies);

  // From now on Admit and Submit refuse with Unavailable; running and waiting requests go on.
  void StartDrain();
  // Every request has finished.
  bool idle() const;
  // Ends everything still running or waiting with Cancelled (`why` begins its message), and spills
  // idle sessions if there is a spill directory. Blocks until done. One caller at a time; after the
  // first call nothing happens.
  void Shutdown(absl::string_view why = kDaemonShutsDown);
  static constexpr char kDaemonShutsDown[] = "the daemon is shutting down";

  // As of the latest step; does not wait.
  EngineStats stats() const;

  // Waits for the engine thread between two steps (at most one step), so it knows every request
  // whose end a client has seen. After Shutdown: only stats.
  EngineAccounts TakeAccounts();

  // Each waits for the engine thread between two steps (at most one step).
  // Largest KV holders first; total = how many there are in the scope.
  std::vector<RequestSnapshot> ListRequests(const TenantScope& scope, size_t limit, int* total);
  std::vector<SessionSnapshot> ListSessions(const TenantScope& scope, size_t limit, int* total);
  absl::StatusOr<SessionSnapshot> GetSession(const std::string& tenant, const std::string& id);
  absl::StatusOr<SessionSnapshot> ForkSession(const std::string& tenant, const std::string& id,
                                              const std::string& new_id);
  absl::Status DeleteSession(const std::string& tenant, const std::string& id);

  // Returns when the engine thread has come by, between two steps, or after Shutdown.
  void AwaitTurn();

  // What the prefix cache learned and forgot lately, tenants' prompts among it.
  const PrefixEventLog& prefix_events() const;

  const EngineConfig& config() const;  // with defaults filled in: context, capacity, threads
  const KvLayout& kv_layout() const;
  const Model& model() const;
  const Tokenizer& tokenizer() const;

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvasir
