// Who shares an engine and on which terms, as the configuration says it. Plain values.
//
// All limits hold per engine, that is per served model: KV pools are per model too.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace kvasir {

// Quotas of one tenant. kUnlimited where the configuration says nothing.
struct TenantLimits {
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

  int64_t max_requests = kUnlimited;  // waiting or running
  // In the queue, before they are scheduled for the first time. An empty queue admits one prompt of
  // any length.
  int64_t max_waiting = kUnlimited;
  int64_t max_waiting_tokens = kUnlimited;
  int64_t tokens_per_minute = kUnlimited;  // see admission.h

  // Of the KV pool, requests and sessions together; a block counts once, whoever of the tenant's
  // requests and sessions share it (tenants never share blocks).
  int64_t max_kv_bytes = kUnlimited;
  int64_t max_sessions = kUnlimited;
  // Of the KV pool, held by sessions between turns; forks count their shared blocks each.
  int64_t max_session_bytes = kUnlimited;
  int64_t max_spill_bytes = kUnlimited;  // on disk

  bool operator==(const TenantLimits&) const = default;

  struct Name;
  static const std::array<Name, 8> kNames;
};

// A quota as the configuration, refusals and metrics call it.
struct TenantLimits::Name {
  const char* name;
  int64_t TenantLimits::*limit;
};
inline constexpr std::array<TenantLimits::Name, 8> TenantLimits::kNames = {
    {{"max_requests", &TenantLimits::max_requests},
     {"max_waiting", &TenantLimits::max_waiting},
     {"max_waiting_tokens", &TenantLimits::max_waiting_tokens},
     {"tokens_per_minute", &TenantLimits::tokens_per_minute},
     {"max_kv_bytes", &TenantLimits::max_kv_bytes},
     {"max_sessions", &TenantLimits::max_sessions},
     {"max_session_bytes", &TenantLimits::max_session_bytes},
     {"max_spill_bytes", &TenantLimits::max_spill_bytes}}};

struct TenantPolicy {
  std::string id;     // what GenerationRequest::tenant says
  double weight = 1;  // > 0; share of steps, slots and KV pool against others that want them
  TenantLimits limits;

  bool operator==(const TenantPolicy&) const = default;
};

struct TenantPolicies {
  std::vector<TenantPolicy> named;  // ids are distinct
  // Holds for each tenant that is not named, the anonymous one ("") included; its id is ignored.
  TenantPolicy others;

  const TenantPolicy* FindNamed(const std::string& id) const {
    for (const TenantPolicy& policy : named) {
      if (policy.id == id) return &policy;
    }
    return nullptr;
  }
  const TenantPolicy& Of(const std::string& id) const {
    const TenantPolicy* const found = FindNamed(id);
    return found == nullptr ? others : *found;
  }
};

// What a tenant's virtual counter is charged for one token (fair_queue.h).
struct TokenPrices {
  double input = 1;   // a prompt token computed
  double output = 2;  // a generated token
};

}  // namespace kvasir
