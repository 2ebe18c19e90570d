// The engine without its thread: requests in, steps, events out. Everything that decides about
// sequences, blocks and sessions is here, single-threaded, so that it is tested step by step with a
// dummy model and a fake clock.
//
// Step() is: schedule, run, process. Not thread safe; Engine calls it from the engine thread only.
// Borrows everything it is made from.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/background_work.h"
#include "base/clock.h"
#include "kvcache/kv_cache_manager.h"
#include "kvcache/spill/kv_spill.h"
#include "kvcache/spill/prefix_spill.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/engine_config.h"
#include "runtime/engine/engine_observer.h"
#include "runtime/engine/model_runner.h"
#include "runtime/engine/restore/prefix_restores.h"
#include "runtime/engine/restore/restore_worker.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/sessions/session_store.h"
#include "runtime/engine/speculation/speculator.h"
#include "runtime/engine/tenants/tenant_table.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {

// Bytes of K/V that one item of a step reads in all layers.
struct KvBytesRead {
  int64_t dense = 0;     // by its dense tokens; what the others read is counted as they run
  int64_t if_dense = 0;  // had all of it been dense
  int32_t sparse_tokens = 0;
};

class EngineCore : private BlockSource {
 public:
  struct Parts {
    const EngineConfig* config = nullptr;  // complete: no zero that means a default
    const Tokenizer* tokenizer = nullptr;
    KvCacheManager* kv = nullptr;
    KvSpill* spill = nullptr;  // may be null
    // May be null, and is without spill. The same as KvCacheConfig::evicted of kv.
    PrefixSpill* prefix_spill = nullptr;
    ForwardPass* forward = nullptr;
    int32_t vocab_size = 0;
    std::vector<int32_t> plain_query_heads;  // ModelSpec::PlainQueryHeads
    int32_t short_context_tokens = std::numeric_limits<int32_t>::max();  // ModelSpec's
    std::vector<TokenId> eos_token_ids;
    Drafter* draft_model = nullptr;  // may be null
    EngineObserver* observer = nullptr;
    const Clock* clock = nullptr;
    // Called from any thread when Step has something to do although no command or stream says so.
    std::function<void()> wake = [] {};
  };
  explicit EngineCore(Parts parts);
  // Cancels what still runs.
  ~EngineCore() override;

  // Takes the request. All outcomes, refusals too (session busy, history beyond the context, more
  // KV bytes than the tenant's quota), arrive as events.
  void Start(GenerationRequest request, std::shared_ptr<TokenStream> stream,
             AdmissionTicket ticket);

  // One step over whatever can run. False when nothing could: the caller then sleeps until a
  // command, a wake-up of a stream or next_timer().
  bool Step();

  // When Step has something to do although nothing new came: a deadline, a stall limit, a session's
  // end.
  absl::Time next_timer() const;

  // NotFound when the tenant has no such request.
  absl::Status Abort(const std::string& tenant, const std::string& request_id);
  // Ends every request with Cancelled and spills idle sessions. `why` begins the message.
  void Shutdown(absl::string_view why = "the daemon is shutting down");

  bool idle() const { return requests_.empty() && forks_.empty(); }
  EngineStats stats() const;
  std::vector<RequestSnapshot> ListRequests(
      const TenantScope& scope) const;  // largest physical bytes first
  std::vector<SessionSnapshot> ListSessions(const TenantScope& scope) const;
  std::vector<GroupSnapshot> ListGroups() const;
  // `claims`: with a shared spill directory, on the sessions that are named, in order.
  using Claims = std::vector<std::shared_ptr<SessionClaim>>;
  absl::StatusOr<SessionSnapshot> GetSession(const std::string& tenant, const std::string& id,
                                             const Claims& claims = {});
  // `done` is called within the call, or, where K/V have to come from the disk first, in a later
  // step or Shutdown (Cancelled).
  using ForkDone = std::function<void(absl::StatusOr<SessionSnapshot>)>;
  void ForkSession(const std::string& tenant, const std::string& id, const std::string& new_id,
                   ForkDone done, Claims claims = {});
  absl::Status DeleteSession(const std::string& tenant, const std::string& id,
                             const Claims& claims = {});
  void UpdateTenants(TenantPolicies policies);

 private:
  // BlockSource
  void AttachCached(Sequence* sequence) override;
  SpilledBlocks Spilled(const Sequence& sequence) const override;
  bool StartRestore(Sequence* sequence) override;
  SpilledBlocks SpilledSession(const Sequence& sequence) const;
  void Detach(Sequence* sequence) override;
  bool Reclaim(const TenantState& asking, BlockDonors donors,
               absl::FunctionRef<bool()> enough) override;

  struct PendingFork {
    std::string tenant, id, new_id;
    ForkDone done;
    Claims claims;
    bool restored = false;  // or tried
  };

  // Stages of a step.
  void EndCancelled(absl::Time now);
  void EndStalled(absl::Time now);
  void EndRestores();
  // Forks if the K/V are at hand. False if they have to be waited for.
  bool TryFork(PendingFork* fork);
  void NotePlan(const StepPlan& plan, absl::Time now);
  void CountReads(const StepPlan& plan);
  void CommitComputed(const StepPlan& plan);
  void SendPromptLogprobs(const StepPlan& plan, absl::Span<const float> logits);
  // Why there is no next token of a sequence.
  static absl::Status NothingDrawn(const Sequence& sequence);
  void ProcessDrawn(std::vector<DrawnToken>* drawn, absl::Time now);
  // Commits the positions of the draft's tokens that are the sequence's now, gives the blocks of
  // the others back, and counts. `num_known`: tokens before the step.
  void KeepAccepted(const DrawnToken& drawn, int32_t num_known);
  PrefixScope ScopeOf(const RequestState& request) const;
  // Byte-seconds of requests and tenants up to now, and what each holds from now on.
  void AccountKv(absl::Time now);
  void AccountTenant(TenantState* tenant, double seconds);

  // Starts the turn of its session and makes its first sequence, ready for the queue. Errors as in
  // Start.
  absl::Status Prepare(RequestState* request, absl::Time now);
  // InvalidArgument, or the refusal of a quota, when no waiting would ever make room for it.
  absl::Status CheckCanFit(const RequestState& request) const;
  KvBytesRead BytesRead(const ScheduledSequence& item) const;
  std::unique_ptr<Sequence> MakeSequence(RequestState* request, int32_t index,
                                         std::vector<TokenId> tokens) const;
  void MakeForks(RequestState* request);
  // Whether it has a session whose K/V is of its own kind of context; else the turn computes the
  // history anew, and its failure leaves the session's K/V where they are.
  static bool GoesOnFromSession(const RequestState& request);
  void FinishSequence(Sequence* sequence, CompletionResult result);
  // Ends a request: frees or keeps its blocks, pushes Finished, forgets it.
  void FinishRequest(RequestState* request, absl::Status status);
  void Cancel(RequestState* request, absl::Status status, CancelCause cause);
  // Into begun_, if it is not there yet.
  void Begin(RequestState* request);
  void ForgetFinished();
  // Of all sequences, what forks share counted once; the state's part of it.
  int64_t PhysicalBytes(const RequestState& request) const;
  int64_t StateBytes(const RequestState& request) const;
  void NoticePrefixFaults();

  const EngineConfig& config_;
  const Tokenizer* const tokenizer_;
  KvCacheManager* const kv_;
  EngineObserver* const observer_;
  const Clock* const clock_;
  const int32_t vocab_size_;
  const std::vector<int32_t> plain_query_heads_;
  const int32_t short_context_tokens_;
  const std::vector<TokenId> eos_token_ids_;

  TenantTable tenants_;
  PrefixSpill* const prefix_spill_;          // may be null
  std::unique_ptr<RestoreWorker> restorer_;  // null without a spill directory
  SessionStore sessions_;
  PrefixRestores prefixes_;
  Scheduler scheduler_;
  ModelRunner runner_;
  Speculator speculator_;

  // In order of arrival. Most of a long list wait: a step looks at begun_, and at all only when one
  // was cancelled or a deadline has passed.
  std::vector<std::unique_ptr<RequestState>> requests_;
  std::vector<RequestState*> begun_;  // of those, who may hold blocks: scheduled, or restoring
  const std::shared_ptr<std::atomic<int64_t>> cancels_ = std::make_shared<std::atomic<int64_t>>(0);
  int64_t cancels_seen_ = 0;
  absl::Time earliest_deadline_ = absl::InfiniteFuture();  // or one of a request that has ended
  std::vector<PendingFork> forks_;
  std::vector<RequestState*> finished_;  // to be forgotten at the end of the step
  uint64_t next_order_ = 0;
  absl::Time tenants_accounted_at_;

  ForegroundWork foreground_;
  bool ended_ = false;  // Shutdown was called
  int64_t prompt_tokens_total_ = 0;
  int64_t cached_tokens_total_ = 0;
  int64_t generated_tokens_total_ = 0;
  int64_t drafted_tokens_total_ = 0;
  int64_t accepted_tokens_total_ = 0;
  int64_t forced_tokens_total_ = 0;  // of generated ones, those that a grammar left no choice for
  int64_t preemptions_total_ = 0;
  int64_t steps_total_ = 0;
  int64_t kv_bytes_read_dense_total_ = 0;
  int64_t kv_bytes_read_sparse_total_ = 0;
  int64_t kv_bytes_read_if_dense_total_ = 0;
  int64_t state_bytes_read_total_ = 0;
  int64_t step_bytes_read_ = 0;  // of the step at hand
};

}  // namespace kvasir
