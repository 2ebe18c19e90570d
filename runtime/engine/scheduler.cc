#include "runtime/engine/scheduler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"

namespace kvasir {
namespace {

// Who runs more than this many times as much for its weight adds no prompts to a step that computes
// another's: those would only be waited for. Below two, tenants in balance would take turns.
constexpr double kFarMore = 2;

double SlotsShare(const TenantState& tenant) { return tenant.slots / tenant.policy.weight; }

}  // namespace

Scheduler::Scheduler(SchedulerLimits limits, KvCacheManager* kv, BlockSource* source)
    : limits_(limits), kv_(kv), source_(source), queue_(limits.prices) {
  KVASIR_CHECK(limits.max_step_tokens >= limits.max_running);  // every decode fits into one step
  KVASIR_CHECK(limits.prefill_chunk_tokens >= 1);
  KVASIR_CHECK(limits.max_logit_rows >= limits.max_running);
}

void Scheduler::Enqueue(Sequence* sequence) {
  sequence->state = SequenceState::kWaiting;
  queue_.Push(sequence);
}

void Scheduler::EnqueueSuspended(Sequence* sequence) {
  Enqueue(sequence);
  if (std::find(suspended_.begin(), suspended_.end(), sequence) == suspended_.end())
    suspended_.push_back(sequence);
}

void Scheduler::AddRunning(Sequence* sequence) {
  sequence->state = SequenceState::kRunning;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, FairQueue::Before),
                  sequence);
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->state == SequenceState::kRunning) {
    std::erase(running_, sequence);
  } else if (sequence->state == SequenceState::kRestoring) {
    std::erase(restoring_, sequence);
  } else {
    queue_.Remove(sequence);
  }
  std::erase(suspended_, sequence);
  sequence->state = SequenceState::kFinished;
}

void Scheduler::StartRestoring(Sequence* sequence) {
  queue_.Remove(sequence);
  sequence->state = SequenceState::kRestoring;
  restoring_.push_back(sequence);
}

void Scheduler::EndRestore(Sequence* sequence) {
  std::erase(restoring_, sequence);
  int32_t slots = SlotsOf(*sequence);
  for (const Sequence* other : running_) slots += SlotsOf(*other);
  if (sequence->table.empty()) return Enqueue(sequence);
  if (slots <= limits_.max_running) return AddRunning(sequence);
  EnqueueSuspended(sequence);
}

void Scheduler::ChargeForced(const Sequence& sequence, int32_t tokens) {
  queue_.ChargeInput(sequence.request->tenant, tokens);
}

StepPlan Scheduler::Plan() {
  StepPlan plan;
  logit_rows_ = 0;
  for (Sequence* sequence : running_) {
    sequence->paused = !sequence->request->stream->HasRoom(sequence->request->events_per_step());
  }
  CountSlots();
  PlanDecodes(&plan);
  PlanForcedRuns(&plan);
  PlanPrompts(&plan);
  return plan;
}

void Scheduler::PlanDecodes(StepPlan* plan) {
  std::vector<std::pair<double, Sequence*>> in_order;  // share of the pool
  in_order.reserve(running_.size());
  for (Sequence* sequence : running_) {
    if (sequence->paused || !sequence->in_decode()) continue;
    in_order.emplace_back(KvShare(*kv_, *sequence->request->tenant), sequence);
  }
  std::stable_sort(in_order.begin(), in_order.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [share, sequence] : in_order) {
    if (sequence->state != SequenceState::kRunning) continue;  // preempted on the way
    if (ReserveOrPreempt(sequence, sequence->num_tokens(), plan)) Add(sequence, 1, plan);
  }
}

void Scheduler::PlanForcedRuns(StepPlan* plan) {
  const std::vector<Sequence*> running = running_;
  for (Sequence* sequence : running) {
    if (sequence->state != SequenceState::kRunning) continue;  // preempted on the way
    if (sequence->paused || !sequence->in_forced_run()) continue;
    // As a whole or not now: what shares the step must not decide in which pieces, and so with
    // which rounding, it is computed.
    const int32_t left = limits_.max_step_tokens - plan->decode_tokens - plan->prefill_tokens;
    if (sequence->num_uncomputed() > left && !plan->empty()) continue;
    ContinuePrefill(sequence, left, plan);
  }
}

void Scheduler::Turn::Advance() {
  if (holders_taken < holders.size()) {
    next = holders[holders_taken++];
    return;
  }
  // Behind the last one, whatever has left the line or come into it meanwhile.
  const std::vector<Sequence*>& line = tenant->waiting;
  auto waiting =
      joins ? std::upper_bound(line.begin(), line.end(), next, FairQueue::Before) : line.begin();
  while (waiting != line.end() && (*waiting)->suspended()) ++waiting;
  joins = true;
  next = waiting == line.end() ? nullptr : *waiting;
}

std::vector<Scheduler::Turn> Scheduler::TakeTurns() {
  std::erase_if(suspended_, [](const Sequence* sequence) { return !sequence->suspended(); });
  std::sort(suspended_.begin(), suspended_.end(), FairQueue::Before);
  std::vector<Turn> turns;
  for (TenantState* tenant : queue_.tenants()) turns.push_back({.tenant = tenant});
  const auto turn_of = [&](TenantState* tenant) {
    return std::find_if(turns.begin(), turns.end(),
                        [&](const Turn& turn) { return turn.tenant == tenant; });
  };
  for (Sequence* sequence : suspended_) {
    turn_of(sequence->request->tenant)->holders.push_back(sequence);
  }
  for (Sequence* sequence : running_) {
    if (sequence->paused || sequence->in_decode() || sequence->in_forced_run()) continue;
    TenantState* const tenant = sequence->request->tenant;
    auto turn = turn_of(tenant);
    if (turn == turns.end()) turn = turns.insert(turn, {.tenant = tenant});
    turn->holders.push_back(sequence);
  }
  for (Turn& turn : turns) turn.Advance();
  return turns;
}

void Scheduler::PlanPrompts(StepPlan* plan) {
  std::vector<Turn> turns = TakeTurns();
  bool joins_open = true;
  double least_share = std::numeric_limits<double>::infinity();  // of who computes prompts
  while (true) {
    std::erase_if(turns, [](const Turn& turn) { return turn.next == nullptr; });
    const auto turn =
        std::min_element(turns.begin(), turns.end(), [](const Turn& a, const Turn& b) {
          if (a.tenant->virtual_tokens != b.tenant->virtual_tokens)
            return a.tenant->virtual_tokens < b.tenant->virtual_tokens;
          if (SlotsShare(*a.tenant) != SlotsShare(*b.tenant))
            return SlotsShare(*a.tenant) < SlotsShare(*b.tenant);
          return a.next->request->order < b.next->request->order;
        });
    if (turn == turns.end()) return;
    Sequence* const sequence = turn->next;
    const bool joins = turn->joins;
    const TenantState& tenant = *turn->tenant;
    turn->Advance();
    if (!sequence->suspended() && SlotsShare(tenant) > kFarMore * least_share) {
      if (joins) turn->next = nullptr;
      continue;
    }
    if (sequence->state == SequenceState::kRunning) {
      if (ContinuePrefill(sequence, Budget(*sequence, *plan), plan))
        least_share = std::min(least_share, SlotsShare(tenant));
      continue;
    }
    // Whoever just lost blocks would win them back at once and lose them again: nobody joins in
    // such a step. Who has its blocks already may go on.
    joins_open = joins_open && plan->preempted.empty();
    if (!joins_open && !sequence->suspended()) {
      if (joins) turn->next = nullptr;
      continue;
    }
    switch (Join(sequence, plan)) {
      case Joining::kJoined:
        if (!sequence->in_decode()) least_share = std::min(least_share, SlotsShare(tenant));
        break;
      case Joining::kNotNow:
        break;
      case Joining::kTenantFull:
        turn->next = nullptr;
        break;
      case Joining::kFull:
        joins_open = false;
        break;
    }
  }
}

bool Scheduler::ContinuePrefill(Sequence* sequence, int32_t budget, StepPlan* plan) {
  const int32_t chunk = ChunkFor(*sequence, budget);
  if (chunk == 0 || !ReserveOrPreempt(sequence, sequence->table.num_tokens() + chunk, plan))
    return false;
  Add(sequence, chunk, plan);
  return true;
}

Scheduler::Joining Scheduler::Join(Sequence* sequence, StepPlan* plan) {
  // A preempted sequence whose reader is slow lets the others pass.
  if (sequence->request->accepted_sent &&
      !sequence->request->stream->HasRoom(sequence->request->events_per_step()))
    return Joining::kNotNow;
  if (Budget(*sequence, *plan) <= 0) return Joining::kTenantFull;
  std::vector<Sequence*> donors;
  if (!FindSlots(*sequence, *plan, &donors)) return Joining::kFull;
  if (sequence->suspended()) return Resume(sequence, donors, plan);

  const TenantState& tenant = *sequence->request->tenant;
  const SpilledBlocks spilled = source_->Spilled(*sequence);
  if (spilled.later) return Joining::kNotNow;
  if (spilled.bytes == 0) source_->AttachCached(sequence);
  const auto within_quota = [&] {
    return WithinKvQuota(tenant, std::max(spilled.bytes, BytesToFinish(*sequence)));
  };
  if (!within_quota()) source_->Reclaim(tenant, BlockDonors::kOwn, within_quota);
  // A tenant always may run one sequence: a quota lowered meanwhile must not hold it back for good.
  const bool alone = tenant.slots == 0 &&
                     std::none_of(restoring_.begin(), restoring_.end(), [&](const Sequence* other) {
                       return other->request->tenant == &tenant;
                     });
  if (!within_quota() && !alone) {
    source_->Detach(sequence);
    return Joining::kTenantFull;
  }
  bool has_room = MakeRoom(sequence, spilled.bytes, plan);
  if (spilled.bytes > 0) {
    if (has_room && source_->StartRestore(sequence)) {
      StartRestoring(sequence);
      return Joining::kNotNow;
    }
    source_->AttachCached(sequence);
    has_room = MakeRoom(sequence, 0, plan);
  }
  const int32_t chunk = ChunkFor(*sequence, Budget(*sequence, *plan));
  if (!has_room || chunk == 0 ||
      !kv_->Reserve(&sequence->table, sequence->table.num_tokens() + chunk)) {
    source_->Detach(sequence);
    return Joining::kFull;
  }
  donors.clear();
  KVASIR_CHECK(FindSlots(*sequence, *plan, &donors));  // preemption only frees slots
  for (Sequence* donor : donors) Suspend(donor, plan);
  StartRunning(sequence, chunk, plan);
  return Joining::kJoined;
}

Scheduler::Joining Scheduler::Resume(Sequence* suspended, const std::vector<Sequence*>& donors,
                                     StepPlan* plan) {
  const TenantState& tenant = *suspended->request->tenant;
  const int32_t chunk = ChunkFor(*suspended, Budget(*suspended, *plan));
  if (chunk == 0) return Joining::kTenantFull;
  const int32_t end_tokens = suspended->table.num_tokens() + chunk;
  const auto needed = [&] { return kv_->BytesNeeded(suspended->table, end_tokens); };
  const auto fits = [&] {
    return needed() <= kv_->available_bytes() && WithinKvQuota(tenant, needed());
  };
  const bool alone = tenant.slots == 0;
  if (!fits()) {
    source_->Reclaim(tenant, alone ? BlockDonors::kAll : BlockDonors::kFair, fits);
  }
  if ((!alone && !fits()) || !kv_->Reserve(&suspended->table, end_tokens)) {
    // It stands where blocks are needed and cannot use them: two such would wait for each other.
    Preempt(suspended, plan);
    return Joining::kNotNow;
  }
  for (Sequence* donor : donors) Suspend(donor, plan);
  StartRunning(suspended, chunk, plan);
  return Joining::kJoined;
}

void Scheduler::StartRunning(Sequence* sequence, int32_t num_tokens, StepPlan* plan) {
  queue_.Remove(sequence);
  AddRunning(sequence);
  const int32_t slots = SlotsOf(*sequence);
  slots_taken_ += slots;
  sequence->request->tenant->slots += slots;
  Add(sequence, num_tokens, plan);
}

void Scheduler::Add(Sequence* sequence, int32_t num_tokens, StepPlan* plan) {
  ScheduledSequence item;
  item.sequence = sequence;
  item.first_position = sequence->table.num_tokens();
  item.num_tokens = num_tokens;
  const int32_t end = item.first_position + num_tokens;
  const RequestState& request = *sequence->request;
  if (request.request.prompt_logprobs.has_value() && end >= request.prompt_logprobs_done &&
      request.prompt_logprobs_done < sequence->prompt_tokens) {
    // The logits at position p are the log-probabilities of token p + 1.
    item.num_logits = std::min(num_tokens, end - (request.prompt_logprobs_done - 1));
  } else {
    item.num_logits = item.completes() ? 1 : 0;
  }
  logit_rows_ += item.num_logits;
  (sequence->in_decode() ? plan->decode_tokens : plan->prefill_tokens) += num_tokens;
  plan->scheduled.push_back(item);

  const int32_t charged = std::max(item.first_position, sequence->charged_tokens);
  queue_.ChargeInput(request.tenant, std::max(0, std::min(end, sequence->prompt_tokens) - charged));
  sequence->charged_tokens = std::max(sequence->charged_tokens, end);
  // The end of a prompt draws the first token of each completion.
  if (item.completes()) queue_.ChargeOutput(request.tenant, SlotsOf(*sequence));
}

int32_t Scheduler::DraftRoom(const StepPlan& plan) const {
  return std::min(
      limits_.max_step_tokens - plan.decode_tokens - plan.prefill_tokens - plan.draft_tokens,
      limits_.max_logit_rows - logit_rows_);
}

bool Scheduler::AddDraft(std::vector<TokenId> draft, ScheduledSequence* item, StepPlan* plan) {
  Sequence* const sequence = item->sequence;
  const auto drafted = static_cast<int32_t>(draft.size());
  KVASIR_CHECK(item->num_tokens == 1 && item->num_logits == 1 && sequence->in_decode());
  KVASIR_CHECK(drafted >= 1 && drafted <= DraftRoom(*plan));
  const int32_t end_tokens = item->first_position + 1 + drafted;
  const int64_t bytes = kv_->BytesNeeded(sequence->table, end_tokens);
  if (!WithinKvQuota(*sequence->request->tenant, bytes)) return false;
  if (!kv_->Reserve(&sequence->table, end_tokens)) return false;
  item->draft = std::move(draft);
  item->num_tokens += drafted;
  item->num_logits += drafted;
  logit_rows_ += drafted;
  plan->draft_tokens += drafted;
  return true;
}

void Scheduler::ChargeAccepted(const Sequence& sequence, int32_t accepted) {
  queue_.ChargeOutput(sequence.request->tenant, accepted);
}

int64_t Scheduler::BytesToFinish(const Sequence& sequence) const {
  return kv_->BytesToReach(sequence.table, sequence.num_tokens(), limits_.max_step_tokens);
}

int32_t Scheduler::Budget(const Sequence& sequence, const StepPlan& plan) const {
  const int32_t left = limits_.max_step_tokens - plan.decode_tokens - plan.prefill_tokens;
  const bool streams_wait = plan.decode_tokens > 0;
  if (sequence.in_decode() || !streams_wait) return left;
  return std::min(left, limits_.prefill_chunk_tokens - plan.prefill_tokens);
}

int32_t Scheduler::ChunkFor(const Sequence& sequence, int32_t budget) const {
  // A chunk ends where a snapshot of the state is due.
  const int32_t to_snapshot =
      kv_->NextSnapshot(sequence.table.num_tokens()) - sequence.table.num_tokens();
  int32_t chunk = std::min({sequence.num_uncomputed(), budget, to_snapshot});
  const RequestState& request = *sequence.request;
  if (request.request.prompt_logprobs.has_value() &&
      request.prompt_logprobs_done < sequence.prompt_tokens) {
    // Each row not yet reported asks for logits; rows already reported (before a preemption) do
    // not.
    const int32_t silent =
        std::max(0, request.prompt_logprobs_done - 1 - sequence.table.num_tokens());
    chunk = std::min(chunk, silent + limits_.max_logit_rows - logit_rows_);
  } else if (logit_rows_ >= limits_.max_logit_rows) {
    return 0;
  }
  return std::max(0, chunk);
}

}  // namespace kvasir
