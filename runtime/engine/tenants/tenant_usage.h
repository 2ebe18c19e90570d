// What one tenant holds of an engine between two steps, for accounting. Plain values.
#pragma once

#include <cstdint>

namespace kvasir {

struct TenantUsage {
  int64_t running = 0;         // requests that were scheduled
  int64_t waiting = 0;         // requests that were not yet
  int64_t kv_bytes = 0;        // of the pool, requests and idle sessions; shared blocks count once
  int64_t sessions = 0;        // known, wherever their K/V is
  int64_t session_bytes = 0;   // of the pool, idle sessions; blocks that forks share count for each
  int64_t spilled_bytes = 0;   // on disk
  double kv_byte_seconds = 0;  // kv_bytes over time, since the tenant is known

  bool holds_nothing() const {
    return running == 0 && waiting == 0 && kv_bytes == 0 && sessions == 0 && spilled_bytes == 0;
  }
  bool operator==(const TenantUsage&) const = default;
};

}  // namespace kvasir
