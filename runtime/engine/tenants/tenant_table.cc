#include "runtime/engine/tenants/tenant_table.h"

#include <utility>

#include "base/check.h"

namespace kvasir {

TenantTable::TenantTable(TenantPolicies policies) { Update(std::move(policies)); }

TenantState* TenantTable::Get(const std::string& id) {
  if (const auto known = states_.find(id); known != states_.end()) return known->second.get();
  if (states_.size() >= forget_at_) ForgetIdle();
  auto state = std::make_unique<TenantState>();
  state->id = id;
  state->scope = next_scope_++;
  state->prefix_scope = PrefixScope::NumberOf(id);
  SetPolicy(state.get());
  return states_.emplace(id, std::move(state)).first->second.get();
}

void TenantTable::Update(TenantPolicies policies) {
  policies_ = std::move(policies);
  for (const auto& [id, state] : states_) SetPolicy(state.get());
  Get("");
  for (const TenantPolicy& policy : policies_.named) {
    KVASIR_CHECK(policy.weight > 0);
    Get(policy.id);
  }
  KVASIR_CHECK(policies_.others.weight > 0);
  ForgetIdle();
}

void TenantTable::SetPolicy(TenantState* state) const {
  state->named = policies_.FindNamed(state->id) != nullptr;
  state->policy = policies_.Of(state->id);
  state->policy.id = state->id;
}

// Keeps those that hold something; the rest costs its cached prefixes, which others then evict.
// Sweeping only every kMaxIdleUnnamed tenants makes the cost per new tenant constant.
void TenantTable::ForgetIdle() {
  absl::erase_if(states_, [](const auto& entry) {
    const TenantState& state = *entry.second;
    return !state.named && !state.id.empty() && state.requests == 0 && state.sessions == 0 &&
           state.last_reported.holds_nothing();
  });
  forget_at_ = states_.size() + kMaxIdleUnnamed;
}

}  // namespace kvasir
