// Iteration-level scheduling: which sequences compute how many tokens in the next step.
//
// A step, in this order, under max_step_tokens:
//   1. every running sequence in decode gets its one token, oldest of the highest priority first;
//   2. running prefills get chunks, together at most prefill_chunk_tokens while anything decodes
//   (so that a long
//      prompt never opens a gap in running streams), else the whole budget;
//   3. waiting sequences join while there are places, budget and blocks for all their known tokens.
// When a running sequence needs a block and none is free, others give theirs: idle sessions first
// (BlockSource), then paused sequences, then the newest of the lowest priority, at last the one
// that asks. A preempted sequence goes back to the front of its place in the waiting queue and is
// recomputed; nobody's output changes and nobody fails.
//
// Policy only: knows neither model nor clock. Owned and called by the engine thread; borrows
// sequences, which the caller keeps alive until Remove.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/kv_cache_manager.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/step_plan.h"

namespace kvasir {

struct SchedulerLimits {
  int32_t max_step_tokens = 512;
  int32_t prefill_chunk_tokens = 256;
  int32_t max_running = 64;
  // Most rows of logits in one step; at least max_running. Prompt log-probabilities ask for one per
  // token.
  int32_t max_logit_rows = 64;
};

// Where a sequence's first blocks come from, and who can give blocks up: the engine core implements
// it with sessions and the prefix cache.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  // Fills the sequence's empty table with what is cached of its tokens (session, prefix cache),
  // leaving at least one token to compute. Called when it is about to join.
  virtual void AttachCached(Sequence* sequence) = 0;
  // Takes back what AttachCached gave; called when the sequence does not fit after all, and on
  // preemption. Leaves the table empty.
  virtual void Detach(Sequence* sequence) = 0;
  // Frees blocks that no running sequence holds (idle sessions) until `blocks` are available or
  // nothing is left to give. True if anything was freed.
  virtual bool Reclaim(int blocks) = 0;
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

  // The next step. Reserves the blocks it needs. Empty when nothing can run: no sequences, or all
  // of them paused.
  StepPlan Plan();

  const std::vector<Sequence*>& running() const { return running_; }
  const std::vector<Sequence*>& waiting() const { return waiting_; }

 private:
  // True when a should be served before b: higher priority, then earlier arrival.
  static bool Before(const Sequence* a, const Sequence* b);
  static void Insert(std::vector<Sequence*>* queue, Sequence* sequence);

  // Of max_running: a request of n completions takes n places from the start, for its forks will
  // need them.
  static int32_t PlacesOf(const Sequence& sequence);
  int32_t PlacesTaken() const;

  void PlanDecodes(StepPlan* plan);
  void PlanRunningPrefills(StepPlan* plan);
  void AdmitWaiting(StepPlan* plan);
  bool Admit(Sequence* sequence, StepPlan* plan);
  void Add(Sequence* sequence, int32_t num_tokens, StepPlan* plan);

  // Makes positions up to end_tokens of a running sequence writable, preempting others if need be.
  // False when the sequence itself had to go.
  bool ReserveOrPreempt(Sequence* sequence, int32_t end_tokens, StepPlan* plan);
  // The running sequence that gives its blocks next; null if every one is in the plan already.
  Sequence* Victim(const StepPlan& plan, bool paused_only) const;
  void Preempt(Sequence* victim, StepPlan* plan);

  int32_t PrefillBudget(const StepPlan& plan) const;
  int32_t ChunkFor(const Sequence& sequence, int32_t budget) const;

  const SchedulerLimits limits_;
  KvCacheManager* const kv_;
  BlockSource* const source_;
  std::vector<Sequence*> running_;  // in order of service
  std::vector<Sequence*> waiting_;  // in order of service
  int32_t logit_rows_ = 0;          // in the plan being made
};

}  // namespace kvasir
