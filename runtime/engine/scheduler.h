// Iteration-level scheduling: which sequences compute how many tokens in the next step.
//
// A step, in this order, under max_step_tokens:
//   1. every running sequence in decode gets its one token; tenants that hold little of the KV pool
//      first, so that it is the others who find it full;
//   2. what is left goes to prompts, at most prefill_chunk_tokens of it while anything decodes (so
//      that a long prompt never opens a gap in running streams): running ones get their chunks and
//      waiting sequences join, while there are slots, budget and blocks for all their known
//      tokens. Tenants take turns by their virtual counters (fair_queue.h).
//
// What is scarce is shared by weight:
//   - Tokens of a step: by the counters; between equal ones who runs least for its weight is first.
//     Once a step computes a prompt of a tenant, those that run far more than it add none: the
//     first token of who sends one request at a time waits for little else. Whoever is left out is
//     charged nothing, so it is first in a later step; nobody is left out for good.
//   - Slots (max_running): a tenant that has fewer than its part takes one from the tenant that
//     has most. The sequence that gives it is suspended: it keeps its blocks and goes on when a
//     slot is free.
//   - Blocks: idle sessions give first (BlockSource), then sequences that do nothing (paused,
//     suspended), then the newest of the lowest priority of the tenant that holds most for its
//     weight, at last the one that asks. A preempted sequence goes back to its place in the queue
//     and is recomputed; nobody's output changes and nobody fails. To let a sequence join, another
//     tenant's working one is preempted only if that tenant stays at or above what the joining one
//     then has.
//
// A sequence whose K/V are on the disk gets room for all that it knows, like one that joins, and is
// then restoring: somebody else reads them while steps go on. It can be neither planned, suspended
// nor preempted, for its blocks are not free before the read has ended; RestoreWorker::kMaxJobs
// bounds how many are.
//
// Policy only: knows neither model nor clock. Owned and called by the engine thread; borrows
// sequences, which the caller keeps alive until Remove.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kvcache/kv_cache_manager.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/step_plan.h"
#include "runtime/engine/tenants/fair_queue.h"

namespace kvasir {

struct SchedulerLimits {
  int32_t max_step_tokens = 512;
  int32_t prefill_chunk_tokens = 256;
  int32_t max_running = 64;
  // Most rows of logits in one step; at least max_running. Prompt log-probabilities ask for one per
  // token.
  int32_t max_logit_rows = 64;
  TokenPrices prices;
};

// Whose idle blocks may be taken for a tenant: its own; its own and those of tenants that hold at
// least as much of the pool for their weight; everybody's.
enum class BlockDonors { kOwn, kFair, kAll };

// K/V of a sequence that are on the disk only.
struct SpilledBlocks {
  int64_t bytes = 0;   // that they take in the pool; 0: there are none
  bool later = false;  // they cannot be read yet: too many others are, or these for somebody else
};

// Where a sequence's first blocks come from, and who can give blocks up: the engine core implements
// it with sessions and the prefix cache.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  // Fills the sequence's empty table with what is cached of its tokens (session, prefix cache),
  // leaving at least one token to compute. Called when it is about to join. Reads no disk.
  virtual void AttachCached(Sequence* sequence) = 0;
  virtual SpilledBlocks Spilled(const Sequence& sequence) const = 0;
  // Begins to read them back into blocks taken for them now; Scheduler::EndRestore follows. False
  // when that cannot be done: the sequence computes them.
  virtual bool StartRestore(Sequence* sequence) = 0;
  // Takes back what AttachCached gave; called when the sequence does not fit after all, and on
  // preemption. Leaves the table empty.
  virtual void Detach(Sequence* sequence) = 0;
  // Frees blocks that no running sequence holds (idle sessions), those of the tenant that is
  // furthest into the pool first, until `enough` or nothing is left to give. True if anything was
  // freed.
  virtual bool Reclaim(const TenantState& asking, BlockDonors donors,
                       absl::FunctionRef<bool()> enough) = 0;
};

class Scheduler {
 public:
  Scheduler(SchedulerLimits limits, KvCacheManager* kv, BlockSource* source);

  // Adds a waiting sequence.
  void Enqueue(Sequence* sequence);
  // Adds a fork that already has its blocks; it runs from the next step on.
  void AddRunning(Sequence* sequence);
  // Forgets a sequence in any state. Its table is the caller's business.
  void Remove(Sequence* sequence);

  // The restore of a sequence is over. With blocks it runs, or waits for a slot with them; without
  // any it joins again, to be computed.
  void EndRestore(Sequence* sequence);

  // The sequence got `tokens` that its grammar forced: they cost what a prompt's do.
  void ChargeForced(const Sequence& sequence, int32_t tokens);

  // The next step. Reserves the blocks it needs. Empty when nothing can run: no sequences, or all
  // of them paused.
  StepPlan Plan();

  // Drafted tokens that the plan's step can check besides.
  int32_t DraftRoom(const StepPlan& plan) const;
  // Has an item that decodes check `draft` (1 to DraftRoom tokens) too, in blocks that are free for
  // it now. False, with nothing changed, when they are not, or the tenant's quota is in the way.
  bool AddDraft(std::vector<TokenId> draft, ScheduledSequence* item, StepPlan* plan);
  // So many drafted tokens became output.
  void ChargeAccepted(const Sequence& sequence, int32_t accepted);

  int num_running() const { return static_cast<int>(running_.size()); }
  // In the queue or restoring.
  int num_waiting() const { return queue_.size() + static_cast<int>(restoring_.size()); }

 private:
  // One tenant's prompts in a step: suspended sequences, then running prefills, then who waits,
  // looked for one by one: most of a long line is not looked at.
  struct Turn {
    TenantState* tenant = nullptr;
    std::vector<Sequence*> holders;  // have blocks
    size_t holders_taken = 0;
    Sequence* next = nullptr;  // null: its turn is over
    bool joins = false;        // next waits without blocks
    void Advance();
  };
  enum class Joining {
    kJoined,
    kNotNow,      // its reader is slow: the next one may try
    kTenantFull,  // the tenant's own bounds: other tenants may go on
    kFull         // nobody overtakes who waits for a slot or blocks
  };

  void PlanDecodes(StepPlan* plan);
  // Streams in the midst of a forced run, before any prompt: their readers wait for the next token.
  void PlanForcedRuns(StepPlan* plan);
  void PlanPrompts(StepPlan* plan);
  std::vector<Turn> TakeTurns();
  // At most `budget` tokens. False when nothing was planned.
  bool ContinuePrefill(Sequence* sequence, int32_t budget, StepPlan* plan);
  Joining Join(Sequence* sequence, StepPlan* plan);
  // Out of the queue, until its K/V are read.
  void StartRestoring(Sequence* sequence);
  Joining Resume(Sequence* suspended, const std::vector<Sequence*>& donors, StepPlan* plan);
  void StartRunning(Sequence* sequence, int32_t num_tokens, StepPlan* plan);
  // Back into the queue, out of the plan if it decodes there.
  void StopRunning(Sequence* sequence, StepPlan* plan);
  void Add(Sequence* sequence, int32_t num_tokens, StepPlan* plan);

  // Of max_running: a request of n completions takes n slots from the start, for its forks will
  // need them.
  static int32_t SlotsOf(const Sequence& sequence);
  void CountSlots();
  // Whom to suspend so that the sequence gets its slots: nobody when they are free. False when
  // there is no way.
  bool FindSlots(const Sequence& sequence, const StepPlan& plan,
                 std::vector<Sequence*>* donors) const;
  void Suspend(Sequence* donor, StepPlan* plan);

  // Makes positions up to end_tokens of a running sequence writable, preempting others if need be.
  // False when the sequence itself had to go.
  bool ReserveOrPreempt(Sequence* sequence, int32_t end_tokens, StepPlan* plan);
  // The same for the tenant's own quota of KV bytes; counts, reserves nothing.
  bool KeepKvQuota(Sequence* sequence, int32_t end_tokens, StepPlan* plan);
  // Whether `bytes` more stay within it.
  bool WithinKvQuota(const TenantState& tenant, int64_t bytes) const;
  // Who gives its blocks to a running sequence; null if everybody is in the plan already. With
  // `tenant`: of that one only.
  Sequence* Victim(const StepPlan& plan, const TenantState* tenant) const;
  // Room for all that a sequence about to join knows, and for at least `least_bytes`, idle
  // sessions' and others' blocks taken if need be. False, with no sequence preempted, when there is
  // none.
  bool MakeRoom(Sequence* sequence, int64_t least_bytes, StepPlan* plan);
  // Whom to preempt so that the sequence can join, which needs `bytes` of which `missing` are not
  // there. False when there is no way.
  bool FindBlocks(const Sequence& sequence, int64_t bytes, int64_t missing, const StepPlan& plan,
                  std::vector<Sequence*>* donors) const;
  void Preempt(Sequence* victim, StepPlan* plan);
  // Whoever holds blocks: running and suspended sequences.
  std::vector<Sequence*> Holders() const;
  // Into the queue, with its blocks.
  void EnqueueSuspended(Sequence* sequence);

  // Bytes that the sequence needs beyond what it holds to compute all that it knows.
  int64_t BytesToFinish(const Sequence& sequence) const;

  int32_t Budget(const Sequence& sequence, const StepPlan& plan) const;
  int32_t ChunkFor(const Sequence& sequence, int32_t budget) const;

  const SchedulerLimits limits_;
  KvCacheManager* const kv_;
  BlockSource* const source_;
  std::vector<Sequence*> running_;  // oldest of highest priority first
  std::vector<Sequence*> restoring_;
  // All that are suspended; some that were so before: suspended() says it.
  std::vector<Sequence*> suspended_;
  FairQueue queue_;
  int32_t slots_taken_ = 0;  // in the plan being made
  int32_t logit_rows_ = 0;   // in the plan being made
};

}  // namespace kvasir
