// What the engine core holds now, and what it has cost: per request, per tenant and in all.
#include <algorithm>
#include <utility>

#include "runtime/engine/engine_core.h"

namespace kvasir {

int64_t EngineCore::PhysicalBytes(const RequestState& request) const {
  if (request.sequences.size() == 1) {
    const Sequence& sequence = *request.sequences.front();
    const BlockTable* const restoring = prefixes_.TableOf(&sequence);
    return (restoring != nullptr ? *restoring : sequence.table).held_bytes();
  }
  // Forks share the prompt's blocks: count each once.
  const KvLayout& layout = kv_->layout();
  int64_t bytes = 0;
  std::vector<BlockId> blocks;
  for (int group = 0; group < layout.num_groups(); ++group) {
    blocks.clear();
    for (const auto& sequence : request.sequences) {
      const BlockTable& table = sequence->table;
      if (group >= layout.num_block_groups()) {
        blocks.push_back(table.state_slot());
      } else {
        blocks.insert(blocks.end(), table.blocks(group).begin(), table.blocks(group).end());
      }
    }
    std::erase(blocks, kNoBlock);
    std::sort(blocks.begin(), blocks.end());
    bytes += (std::unique(blocks.begin(), blocks.end()) - blocks.begin()) *
             static_cast<int64_t>(layout.group(group).block_bytes);
  }
  return bytes;
}

int64_t EngineCore::StateBytes(const RequestState& request) const {
  std::vector<BlockId> slots;
  for (const auto& sequence : request.sequences) slots.push_back(sequence->table.state_slot());
  std::erase(slots, kNoBlock);
  std::sort(slots.begin(), slots.end());
  return (std::unique(slots.begin(), slots.end()) - slots.begin()) *
         static_cast<int64_t>(kv_->layout().state_bytes_per_sequence());
}

void EngineCore::AccountKv(absl::Time now) {
  for (RequestState* request : begun_) {
    const int64_t bytes = PhysicalBytes(*request);
    request->usage.kv_byte_seconds += static_cast<double>(request->kv_bytes_held) *
                                      absl::ToDoubleSeconds(now - request->kv_accounted_at);
    request->kv_bytes_held = bytes;
    request->usage.kv_bytes_peak = std::max(request->usage.kv_bytes_peak, request->kv_bytes_held);
    if (kv_->layout().has_state()) {
      request->usage.state_bytes_peak =
          std::max(request->usage.state_bytes_peak, StateBytes(*request));
    }
    request->kv_accounted_at = now;
  }
  const double seconds = absl::ToDoubleSeconds(now - tenants_accounted_at_);
  tenants_accounted_at_ = now;
  tenants_.ForEach([&](TenantState& tenant) { AccountTenant(&tenant, seconds); });
}

void EngineCore::AccountTenant(TenantState* tenant, double seconds) {
  // Most tenants of a long list hold nothing.
  if (tenant->requests == 0 && tenant->sessions == 0 && tenant->last_reported.holds_nothing())
    return;
  TenantUsage usage;
  usage.running = tenant->requests - tenant->waiting_requests;
  usage.waiting = tenant->waiting_requests;
  usage.kv_bytes = kv_->live_bytes(tenant->scope);
  usage.sessions = tenant->sessions;
  usage.session_bytes = tenant->session_bytes;
  usage.spilled_bytes = tenant->spilled_bytes;
  usage.kv_byte_seconds = tenant->last_reported.kv_byte_seconds +
                          static_cast<double>(tenant->last_reported.kv_bytes) * seconds;
  if (usage == tenant->last_reported) return;
  observer_->OnTenantUsage(tenant->id, tenant->last_reported, usage);
  tenant->last_reported = usage;
}

EngineStats EngineCore::stats() const {
  const KvCacheManager::PoolStats pool = kv_->stats();
  EngineStats stats;
  stats.running = scheduler_.num_running();
  stats.waiting = scheduler_.num_waiting();
  stats.kv_capacity_bytes = pool.capacity_bytes;
  stats.kv_live_bytes = pool.live_bytes;
  stats.kv_cached_bytes = pool.cached_bytes;
  stats.kv_free_bytes = pool.free_bytes;
  stats.kv_state_live_bytes = pool.state_live_bytes;
  stats.kv_state_cached_bytes = pool.state_cached_bytes;
  stats.kv_block_bytes = static_cast<int64_t>(kv_->layout().block_bytes());
  stats.prompt_tokens_total = prompt_tokens_total_;
  stats.cached_tokens_total = cached_tokens_total_;
  stats.generated_tokens_total = generated_tokens_total_;
  stats.drafted_tokens_total = drafted_tokens_total_;
  stats.accepted_tokens_total = accepted_tokens_total_;
  stats.forced_tokens_total = forced_tokens_total_;
  stats.grammar_masks_total = runner_.masks().masks_total();
  stats.grammar_mask_nanoseconds_total =
      absl::ToInt64Nanoseconds(runner_.masks().mask_time_total());
  stats.preemptions_total = preemptions_total_;
  stats.steps_total = steps_total_;
  stats.kv_bytes_read_dense_total = kv_bytes_read_dense_total_;
  stats.kv_bytes_read_sparse_total = kv_bytes_read_sparse_total_;
  stats.kv_bytes_read_if_dense_total = kv_bytes_read_if_dense_total_;
  stats.weight_bytes_read_total = runner_.weight_bytes_read();
  stats.state_bytes_read_total = state_bytes_read_total_;
  stats.kv_evictions_total = pool.evictions;
  stats.sessions_idle = sessions_.counts().idle;
  stats.sessions_busy = sessions_.counts().busy;
  stats.sessions_spilled = sessions_.counts().spilled;
  stats.sessions_evicted = sessions_.counts().evicted;
  stats.sessions_restoring = sessions_.counts().restoring;
  stats.prefix_restores = prefixes_.under_way();
  return stats;
}

std::vector<GroupSnapshot> EngineCore::ListGroups() const {
  std::vector<GroupSnapshot> groups;
  for (int i = 0; i < kv_->layout().num_groups(); ++i) {
    const auto block_bytes = static_cast<int64_t>(kv_->layout().group(i).block_bytes);
    groups.push_back({kv_->num_live(i) * block_bytes, kv_->num_cached(i) * block_bytes});
  }
  return groups;
}

std::vector<RequestSnapshot> EngineCore::ListRequests(const TenantScope& scope) const {
  const absl::Time now = clock_->Now();
  std::vector<RequestSnapshot> list;
  for (const auto& request : requests_) {
    if (scope && request->request.tenant != *scope) continue;
    RequestSnapshot row;
    row.id = request->request.id;
    row.tenant = request->request.tenant;
    row.session_id = request->request.session_id;
    row.prompt_tokens = request->usage.prompt_tokens;
    row.cached_tokens = request->usage.cached_tokens;
    row.generated_tokens = request->usage.completion_tokens;
    row.priority = request->request.priority;
    row.age = now - request->request.arrival;
    row.kv_bytes_read = request->usage.kv_bytes_read;
    row.kv_bytes_read_if_dense = request->usage.kv_bytes_read_if_dense;
    row.kv_bytes_physical = PhysicalBytes(*request);
    row.state_bytes = StateBytes(*request);
    bool any_running = false, any_paused = false, any_preempted = false, any_decode = false,
         any_restoring = false;
    for (const auto& sequence : request->sequences) {
      row.computed_tokens = std::max(row.computed_tokens, sequence->table.num_tokens());
      const BlockTable* const restoring = prefixes_.TableOf(sequence.get());
      const KvCacheManager::TableBytes bytes =
          kv_->Bytes(restoring != nullptr ? *restoring : sequence->table);
      row.kv_bytes_exclusive += static_cast<int64_t>(bytes.exclusive);
      row.kv_bytes_proportional += bytes.proportional;
      const bool running = sequence->state == SequenceState::kRunning;
      any_running |= running;
      any_paused |= sequence->paused;
      any_preempted |= sequence->state == SequenceState::kWaiting && sequence->was_preempted;
      any_restoring |= sequence->state == SequenceState::kRestoring;
      any_decode |= running && sequence->in_decode();
    }
    row.state = any_paused      ? "paused"
                : any_decode    ? "decode"
                : any_running   ? "prefill"
                : any_restoring ? "restoring"
                : any_preempted ? "preempted"
                                : "waiting";
    list.push_back(std::move(row));
  }
  std::stable_sort(list.begin(), list.end(),
                   [](const RequestSnapshot& a, const RequestSnapshot& b) {
                     return a.kv_bytes_physical > b.kv_bytes_physical;
                   });
  return list;
}

}  // namespace kvasir
