#include "runtime/engine/scheduler.h"

#include <algorithm>

#include "kvcache/check.h"

namespace kvasir {

Scheduler::Scheduler(SchedulerLimits limits, KvCacheManager* kv, BlockSource* source)
    : limits_(limits), kv_(kv), source_(source) {
  KVASIR_CHECK(limits.max_step_tokens >= limits.max_running);  // every decode fits into one step
  KVASIR_CHECK(limits.prefill_chunk_tokens >= 1);
  KVASIR_CHECK(limits.max_logit_rows >= limits.max_running);
}

bool Scheduler::Before(const Sequence* a, const Sequence* b) {
  const RequestState& first = *a->request;
  const RequestState& second = *b->request;
  if (first.request.priority != second.request.priority)
    return first.request.priority > second.request.priority;
  if (first.order != second.order) return first.order < second.order;
  return a->index < b->index;
}

void Scheduler::Insert(std::vector<Sequence*>* queue, Sequence* sequence) {
  queue->insert(std::upper_bound(queue->begin(), queue->end(), sequence, Before), sequence);
}

void Scheduler::Enqueue(Sequence* sequence) {
  sequence->state = SequenceState::kWaiting;
  Insert(&waiting_, sequence);
}

void Scheduler::AddRunning(Sequence* sequence) {
  sequence->state = SequenceState::kRunning;
  Insert(&running_, sequence);
}

void Scheduler::Remove(Sequence* sequence) {
  std::erase(sequence->state == SequenceState::kRunning ? running_ : waiting_, sequence);
  sequence->state = SequenceState::kFinished;
}

StepPlan Scheduler::Plan() {
  StepPlan plan;
  logit_rows_ = 0;
  for (Sequence* sequence : running_) {
    sequence->paused = !sequence->request->stream->HasRoom(sequence->request->events_per_step());
  }
  PlanDecodes(&plan);
  PlanRunningPrefills(&plan);
  // Whoever just lost blocks would win them back at once and lose them again: nobody joins in such
  // a step.
  if (plan.preempted.empty()) AdmitWaiting(&plan);
  return plan;
}

void Scheduler::PlanDecodes(StepPlan* plan) {
  const std::vector<Sequence*> in_order = running_;  // preemption changes running_ on the way
  for (Sequence* sequence : in_order) {
    if (sequence->state != SequenceState::kRunning || sequence->paused || !sequence->in_decode())
      continue;
    if (ReserveOrPreempt(sequence, sequence->num_tokens(), plan)) Add(sequence, 1, plan);
  }
}

void Scheduler::PlanRunningPrefills(StepPlan* plan) {
  const std::vector<Sequence*> in_order = running_;
  for (Sequence* sequence : in_order) {
    if (sequence->state != SequenceState::kRunning || sequence->paused || sequence->in_decode())
      continue;
    const int32_t chunk = ChunkFor(*sequence, PrefillBudget(*plan));
    if (chunk > 0 && ReserveOrPreempt(sequence, sequence->table.num_tokens() + chunk, plan)) {
      Add(sequence, chunk, plan);
    }
  }
}

void Scheduler::AdmitWaiting(StepPlan* plan) {
  const std::vector<Sequence*> in_order = waiting_;
  for (Sequence* sequence : in_order) {
    if (PrefillBudget(*plan) <= 0 || PlacesTaken() + PlacesOf(*sequence) > limits_.max_running)
      return;
    // A preempted sequence whose reader is slow lets the others pass.
    if (!sequence->request->stream->HasRoom(sequence->request->events_per_step())) continue;
    if (!Admit(sequence, plan))
      return;  // else strictly in order: nobody overtakes who waits for blocks
  }
}

int32_t Scheduler::PlacesOf(const Sequence& sequence) {
  const RequestState& request = *sequence.request;
  return request.sequences.size() == 1 ? request.request.n : 1;
}

int32_t Scheduler::PlacesTaken() const {
  int32_t places = 0;
  for (const Sequence* sequence : running_) places += PlacesOf(*sequence);
  return places;
}

bool Scheduler::Admit(Sequence* sequence, StepPlan* plan) {
  source_->AttachCached(sequence);

  // Room for everything it already knows, and one block for each running sequence to grow into:
  // otherwise it would only be preempted in the middle of its prompt.
  const auto missing = [&] {
    const int needed = kv_->BlocksNeeded(sequence->table, sequence->num_tokens()) +
                       static_cast<int>(running_.size());
    return std::max(0, needed - kv_->available_blocks());
  };
  while (missing() > 0) {
    if (source_->Reclaim(kv_->available_blocks() + missing())) continue;
    if (Sequence* victim = Victim(*plan, /*paused_only=*/true)) {
      Preempt(victim, plan);
      continue;
    }
    break;
  }
  const int32_t chunk = ChunkFor(*sequence, PrefillBudget(*plan));
  if (missing() > 0 || chunk == 0 ||
      !kv_->Reserve(&sequence->table, sequence->table.num_tokens() + chunk)) {
    source_->Detach(sequence);
    return false;
  }
  std::erase(waiting_, sequence);
  AddRunning(sequence);
  Add(sequence, chunk, plan);
  return true;
}

void Scheduler::Add(Sequence* sequence, int32_t num_tokens, StepPlan* plan) {
  ScheduledSequence item;
  item.sequence = sequence;
  item.first_position = sequence->table.num_tokens();
  item.num_tokens = num_tokens;
  const RequestState& request = *sequence->request;
  if (request.request.prompt_logprobs.has_value() &&
      item.first_position + num_tokens >= request.prompt_logprobs_done &&
      request.prompt_logprobs_done < sequence->prompt_tokens) {
    // The logits at position p are the log-probabilities of token p + 1.
    item.num_logits =
        std::min(num_tokens, item.first_position + num_tokens - (request.prompt_logprobs_done - 1));
  } else {
    item.num_logits = item.completes() ? 1 : 0;
  }
  logit_rows_ += item.num_logits;
  (sequence->in_decode() ? plan->decode_tokens : plan->prefill_tokens) += num_tokens;
  plan->scheduled.push_back(item);
}

bool Scheduler::ReserveOrPreempt(Sequence* sequence, int32_t end_tokens, StepPlan* plan) {
  while (!kv_->Reserve(&sequence->table, end_tokens)) {
    if (source_->Reclaim(kv_->BlocksNeeded(sequence->table, end_tokens))) continue;
    Sequence* victim = Victim(*plan, /*paused_only=*/true);
    if (victim == nullptr) victim = Victim(*plan, /*paused_only=*/false);
    KVASIR_CHECK(victim != nullptr);  // the sequence itself is not planned yet
    Preempt(victim, plan);
    if (victim == sequence) return false;
  }
  return true;
}

Sequence* Scheduler::Victim(const StepPlan& plan, bool paused_only) const {
  for (auto candidate = running_.rbegin(); candidate != running_.rend(); ++candidate) {
    Sequence* const sequence = *candidate;
    if (sequence->table.empty() || (paused_only && !sequence->paused)) continue;
    const bool planned =
        std::any_of(plan.scheduled.begin(), plan.scheduled.end(),
                    [&](const ScheduledSequence& item) { return item.sequence == sequence; });
    if (!planned) return sequence;
  }
  return nullptr;
}

void Scheduler::Preempt(Sequence* victim, StepPlan* plan) {
  source_->Detach(victim);
  std::erase(running_, victim);
  victim->was_preempted = true;
  victim->paused = false;
  Enqueue(victim);
  plan->preempted.push_back(victim);
}

int32_t Scheduler::PrefillBudget(const StepPlan& plan) const {
  const int32_t left = limits_.max_step_tokens - plan.decode_tokens - plan.prefill_tokens;
  const bool streams_wait = plan.decode_tokens > 0;
  return streams_wait ? std::min(left, limits_.prefill_chunk_tokens - plan.prefill_tokens) : left;
}

int32_t Scheduler::ChunkFor(const Sequence& sequence, int32_t budget) const {
  int32_t chunk = std::min(sequence.num_uncomputed(), budget);
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
