// The tenants that one engine deals with now, and what each holds of it.
//
// Named tenants and the anonymous one stay for good. Others are made when their first request
// comes; they are forgotten, with their place in the fair order and their part of the prefix cache,
// once they have neither requests nor sessions and kMaxIdleUnnamed such are known. So clients that
// invent tenants cannot grow the table.
//
// Owned and used by the engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvcache/kv_cache_manager.h"
#include "runtime/engine/tenants/tenant_policy.h"
#include "runtime/engine/tenants/tenant_usage.h"

namespace kvasir {

struct Sequence;

struct TenantState {
  std::string id;
  TenantPolicy policy;
  bool named = false;
  uint64_t scope = 0;         // account of live blocks; never used twice
  uint64_t prefix_scope = 0;  // in ScopeOf; follows from the id, also after a restart

  int64_t requests = 0;          // in the engine; whoever holds a pointer to this is counted here
  int64_t waiting_requests = 0;  // of those, not scheduled yet
  int64_t sessions = 0;          // or here

  // FairQueue's: price of the tokens served over weight, and who waits, in order of service.
  double virtual_tokens = 0;
  std::vector<Sequence*> waiting;

  int32_t slots = 0;  // Scheduler's: running sequences, while it plans

  // SessionStore's: bytes of idle sessions, each block counted as often as sessions hold it; files.
  int64_t session_bytes = 0;
  int64_t spilled_bytes = 0;

  TenantUsage last_reported;  // EngineCore's: what the observer last heard
};

class TenantTable {
 public:
  // How many tenants without requests, sessions or name are remembered: their counters and cached
  // prefixes are worth a little memory, but not more.
  static constexpr int kMaxIdleUnnamed = 256;

  explicit TenantTable(TenantPolicies policies);

  // Never null. The pointer is good while `requests` or `sessions` is above zero, for named tenants
  // always.
  TenantState* Get(const std::string& id);

  // New terms for all. A tenant no longer named goes on under the terms of the others.
  void Update(TenantPolicies policies);

  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& [id, state] : states_) visit(*state);
  }
  size_t size() const { return states_.size(); }

 private:
  void SetPolicy(TenantState* state) const;
  void ForgetIdle();

  TenantPolicies policies_;
  absl::flat_hash_map<std::string, std::unique_ptr<TenantState>> states_;
  uint64_t next_scope_ = 0;
  size_t forget_at_ = 0;  // look for idle ones when the table is this large
};

// Who may share a cached prefix with whom: one tenant's requests of one kind of context, for K
// rotated for a long one stands beside the same tokens (BatchSequence::long_context), and of one
// salt.
inline PrefixScope ScopeOf(const TenantState& tenant, bool long_context, const CacheSalt& salt) {
  return {tenant.prefix_scope * 2 + (long_context ? 1 : 0), salt};
}

// How far a tenant is into the KV pool: its live bytes over its weight. Of two tenants the one
// with more of it gives first.
inline double KvShare(const KvCacheManager& kv, const TenantState& tenant) {
  return static_cast<double>(kv.live_bytes(tenant.scope)) / tenant.policy.weight;
}

}  // namespace kvasir
