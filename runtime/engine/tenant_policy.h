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

  // Of the KV pool, requests and sessions together; a block counts once, whoever of the tenant's
  // requests and sessions share it (tenants never share blocks).
  int64_t max_kv_bytes = kUnlimited;
  int64_t max_sessions = kUnlimited;
  // Of the KV pool, held by sessions between turns; forks count their shared blocks each.
  int64_t max_session_bytes = kUnlimited;
  int64_t max_spill_bytes = kUnlimited;  // on disk

  bool operator==(const TenantLimits&) const = default;

  struct Name;
  static const std::array<Name, 4> kNames;
};

// A quota as the configuration, refusals and metrics call it.
struct TenantLimits::Name {
  const char* name;
  int64_t TenantLimits::*limit;
};
inline constexpr std::array<TenantLimits::Name, 4> TenantLimits::kNames = {
    {{"max_kv_bytes", &TenantLimits::max_kv_bytes},
     {"max_sessions", &TenantLimits::max_sessions},
     {"max_session_bytes", &TenantLimits::max_session_bytes},
     {"max_spill_bytes", &TenantLimits::max_spill_bytes}}};

struct TenantPolicy {
  std::string id;     // what GenerationRequest::tenant says
  double weight = 1;  // > 0; share of steps, places and KV pool against others that want them
  TenantLimits limits;

  bool operator==(const TenantPolicy&) const = default;
};

struct TenantPolicies {
  std::vector<TenantPolicy> named;  // ids are distinct
  // Holds for each tenant that is not named, the anonymous one ("") included; its id is ignored.
  TenantPolicy others;
};

// What a tenant's virtual counter is charged for one token (fair_queue.h).
struct TokenPrices {
  double input = 1;   // a prompt token computed
  double output = 2;  // a generated token
};

}  // namespace kvasir
