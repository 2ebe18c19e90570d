// Who gives when slots or blocks are short. Slots and blocks follow one rule: to let a sequence
// join, another tenant's working sequence gives only if its tenant then still has, for its weight,
// at least what the joining tenant will have. Each such step brings the two closer, so nothing is
// taken back and forth.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "base/check.h"
#include "runtime/engine/scheduler.h"

namespace kvasir {
namespace {

std::vector<ScheduledSequence>::iterator Find(StepPlan* plan, const Sequence* sequence) {
  return std::find_if(plan->scheduled.begin(), plan->scheduled.end(),
                      [&](const ScheduledSequence& item) { return item.sequence == sequence; });
}

bool IsPlanned(const StepPlan& plan, const Sequence* sequence) {
  return std::any_of(plan.scheduled.begin(), plan.scheduled.end(),
                     [&](const ScheduledSequence& item) { return item.sequence == sequence; });
}

bool DoesNothing(const Sequence* sequence) { return sequence->paused || sequence->suspended(); }

// Of two that could give, equal in all else: the one of lower priority, and the newer. Priorities
// of different tenants have nothing to do with each other.
bool GivesBefore(const Sequence* a, const Sequence* b) {
  if (DoesNothing(a) != DoesNothing(b)) return DoesNothing(a);
  if (a->request->tenant == b->request->tenant) return FairQueue::Before(b, a);
  return a->request->order > b->request->order;
}

}  // namespace

int32_t Scheduler::SlotsOf(const Sequence& sequence) {
  const RequestState& request = *sequence.request;
  return request.sequences.size() == 1 ? request.request.n : 1;
}

void Scheduler::CountSlots() {
  slots_taken_ = 0;
  for (TenantState* tenant : queue_.tenants()) tenant->slots = 0;
  for (const Sequence* sequence : running_) sequence->request->tenant->slots = 0;
  for (const Sequence* sequence : running_) {
    const int32_t slots = SlotsOf(*sequence);
    sequence->request->tenant->slots += slots;
    slots_taken_ += slots;
  }
}

bool Scheduler::FindSlots(const Sequence& sequence, const StepPlan& plan,
                          std::vector<Sequence*>* donors) const {
  const TenantState& tenant = *sequence.request->tenant;
  const int32_t wanted = SlotsOf(sequence);
  const double share_then = (tenant.slots + wanted) / tenant.policy.weight;
  absl::flat_hash_map<const TenantState*, int32_t> given;
  for (int32_t missing = slots_taken_ + wanted - limits_.max_running; missing > 0;) {
    Sequence* donor = nullptr;
    double most = 0;
    for (Sequence* candidate : running_) {
      const TenantState& other = *candidate->request->tenant;
      if (&other == &tenant || std::count(donors->begin(), donors->end(), candidate) > 0) continue;
      // A prompt's chunk that is in the plan stays there; a decode can be taken out.
      if (!candidate->in_decode() && IsPlanned(plan, candidate)) continue;
      const int32_t has = other.slots - given[&other];
      if ((has - SlotsOf(*candidate)) / other.policy.weight < share_then) continue;
      const double share = has / other.policy.weight;
      if (donor == nullptr || share > most || (share == most && GivesBefore(candidate, donor))) {
        donor = candidate;
        most = share;
      }
    }
    if (donor == nullptr) return false;
    donors->push_back(donor);
    given[donor->request->tenant] += SlotsOf(*donor);
    missing -= SlotsOf(*donor);
  }
  return true;
}

void Scheduler::StopRunning(Sequence* sequence, StepPlan* plan) {
  if (const auto item = Find(plan, sequence); item != plan->scheduled.end()) {
    KVASIR_CHECK(sequence->in_decode());
    plan->decode_tokens -= item->num_tokens;
    logit_rows_ -= item->num_logits;
    plan->scheduled.erase(item);
    queue_.ChargeOutput(sequence->request->tenant, -1);
  }
  std::erase(running_, sequence);
  const int32_t slots = SlotsOf(*sequence);
  slots_taken_ -= slots;
  sequence->request->tenant->slots -= slots;
  sequence->was_preempted = true;
  sequence->paused = false;
  EnqueueSuspended(sequence);
}

void Scheduler::Suspend(Sequence* donor, StepPlan* plan) {
  StopRunning(donor, plan);
  plan->suspended.push_back(donor);
}

void Scheduler::Preempt(Sequence* victim, StepPlan* plan) {
  if (victim->state == SequenceState::kRunning) StopRunning(victim, plan);
  source_->Detach(victim);
  plan->preempted.push_back(victim);
}

bool Scheduler::WithinKvQuota(const TenantState& tenant, int64_t bytes) const {
  return kv_->live_bytes(tenant.scope) <= tenant.policy.limits.max_kv_bytes - bytes;
}

bool Scheduler::KeepKvQuota(Sequence* sequence, int32_t end_tokens, StepPlan* plan) {
  const TenantState& tenant = *sequence->request->tenant;
  const auto within = [&] {
    return WithinKvQuota(tenant, kv_->BytesNeeded(sequence->table, end_tokens));
  };
  while (!within()) {
    if (source_->Reclaim(tenant, BlockDonors::kOwn, within)) continue;
    Sequence* const victim = Victim(*plan, &tenant);
    // Nothing else of the tenant's runs: see Join.
    if (victim == sequence && tenant.slots == SlotsOf(*sequence)) return true;
    Preempt(victim, plan);
    if (victim == sequence) return false;
  }
  return true;
}

bool Scheduler::ReserveOrPreempt(Sequence* sequence, int32_t end_tokens, StepPlan* plan) {
  if (!KeepKvQuota(sequence, end_tokens, plan)) return false;
  const TenantState& tenant = *sequence->request->tenant;
  const auto enough = [&] {
    return kv_->BytesNeeded(sequence->table, end_tokens) <= kv_->available_bytes();
  };
  while (!kv_->Reserve(&sequence->table, end_tokens)) {
    if (source_->Reclaim(tenant, BlockDonors::kFair, enough)) continue;
    Sequence* const victim = Victim(*plan, nullptr);
    KVASIR_CHECK(victim != nullptr);  // the sequence itself is not planned yet
    // Others' idle sessions go before the last one that could work.
    if (victim == sequence && source_->Reclaim(tenant, BlockDonors::kAll, enough)) continue;
    Preempt(victim, plan);
    if (victim == sequence) return false;
  }
  return true;
}

std::vector<Sequence*> Scheduler::Holders() const {
  std::vector<Sequence*> holders;
  for (Sequence* sequence : running_) {
    if (!sequence->table.empty()) holders.push_back(sequence);
  }
  for (Sequence* sequence : suspended_) {
    if (sequence->suspended()) holders.push_back(sequence);
  }
  return holders;
}

Sequence* Scheduler::Victim(const StepPlan& plan, const TenantState* tenant) const {
  Sequence* victim = nullptr;
  double most = 0;
  for (Sequence* candidate : Holders()) {
    const TenantState& other = *candidate->request->tenant;
    if ((tenant != nullptr && &other != tenant) || IsPlanned(plan, candidate)) continue;
    const double share = KvShare(*kv_, other);
    if (victim == nullptr || share > most || (share == most && GivesBefore(candidate, victim))) {
      victim = candidate;
      most = share;
    }
  }
  return victim;
}

bool Scheduler::MakeRoom(Sequence* sequence, int64_t least_bytes, StepPlan* plan) {
  // A block of each group for each running sequence to grow into stays: otherwise this one would
  // only be preempted in the middle of its prompt.
  const int64_t block_bytes = static_cast<int64_t>(kv_->layout().block_bytes());
  const auto needed = [&] { return std::max(least_bytes, BytesToFinish(*sequence)); };
  const auto missing = [&] {
    return needed() + static_cast<int64_t>(running_.size()) * block_bytes - kv_->available_bytes();
  };
  const TenantState& tenant = *sequence->request->tenant;
  // Who runs nothing yet is not held back by what others keep idle.
  const BlockDonors donors = tenant.slots == 0 ? BlockDonors::kAll : BlockDonors::kFair;
  if (missing() > 0) source_->Reclaim(tenant, donors, [&] { return missing() <= 0; });
  if (missing() <= 0) return true;
  std::vector<Sequence*> victims;
  if (!FindBlocks(*sequence, needed(), missing(), *plan, &victims)) return false;
  for (Sequence* victim : victims) Preempt(victim, plan);
  return true;
}

bool Scheduler::FindBlocks(const Sequence& sequence, int64_t bytes, int64_t missing,
                           const StepPlan& plan, std::vector<Sequence*>* donors) const {
  const TenantState& tenant = *sequence.request->tenant;
  const double share_now = KvShare(*kv_, tenant);
  const double share_then = share_now + static_cast<double>(bytes) / tenant.policy.weight;
  absl::flat_hash_map<const TenantState*, int64_t> given;
  while (missing > 0) {
    Sequence* donor = nullptr;
    int64_t gives = 0;
    double most = 0;
    for (Sequence* candidate : Holders()) {
      const TenantState& other = *candidate->request->tenant;
      if (&other == &tenant && !candidate->paused) continue;
      if (std::count(donors->begin(), donors->end(), candidate) > 0) continue;
      if (!candidate->in_decode() && IsPlanned(plan, candidate)) continue;
      // Of blocks that several share, none is counted on.
      const int64_t frees = static_cast<int64_t>(kv_->Bytes(candidate->table).exclusive);
      const int64_t has = kv_->live_bytes(other.scope) - given[&other];
      const double share = static_cast<double>(has) / other.policy.weight;
      const bool may_give =
          DoesNothing(candidate)
              ? share >= share_now
              : static_cast<double>(has - frees) / other.policy.weight >= share_then;
      if (frees == 0 || !may_give) continue;
      if (donor == nullptr || share > most || (share == most && GivesBefore(candidate, donor))) {
        donor = candidate;
        gives = frees;
        most = share;
      }
    }
    if (donor == nullptr) return false;
    donors->push_back(donor);
    given[donor->request->tenant] += gives;
    missing -= gives;
  }
  return true;
}

}  // namespace kvasir
