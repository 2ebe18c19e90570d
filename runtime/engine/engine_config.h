// Limits of one engine. Checked by server_config; every bound has its reason in config.proto, where
// operators read it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "kvcache/kv_layout.h"
#include "runtime/engine/tenants/tenant_policy.h"

namespace kvasir {

struct EngineConfig {
  std::string model_name;
  // Tells these weights from others, so that spilled sessions of another checkpoint are not taken
  // for this one's. Needed with spill_directory only.
  std::string model_fingerprint;

  int32_t max_context_tokens = 0;  // prompt and output of one sequence; 0 = the model's own
  KvElementType kv_element_type = KvElementType::kBf16;
  int32_t block_tokens = 32;
  KvColumns k_columns = KvColumns::kOff;  // without them attention is dense
  int64_t kv_capacity_bytes = 0;          // rounded down to whole blocks
  bool prefix_cache = true;
  // Models with a recurrent state: snapshots of it in the prefix cache (KvCacheConfig).
  int32_t snapshot_interval_tokens = 512;
  int32_t max_snapshots = 64;
  bool poison_free_blocks = false;  // tests: unused pool memory holds NaN
  bool scrub_freed_blocks = false;  // zero what is freed: tenants share the pool

  int32_t max_step_tokens = 512;
  int32_t prefill_chunk_tokens = 256;
  int32_t max_running = 64;
  int64_t draft_kv_capacity_bytes = int64_t{256} << 20;  // of a draft model's own pool
  int32_t max_waiting = 1024;
  int64_t max_waiting_tokens = 1 << 20;
  int32_t stream_outbox_events = 64;
  absl::Duration stall_limit = absl::Seconds(30);

  TokenPrices token_prices;
  TenantPolicies tenants;  // at the start; Engine::UpdateTenants changes them

  int32_t max_sessions = 1024;
  absl::Duration session_ttl = absl::Hours(1);
  int64_t max_idle_session_bytes = 0;  // 0 = half of the pool
  std::string spill_directory;         // empty = none
  bool share_spill_directory = false;  // with other replicas
  int64_t max_spill_bytes = int64_t{8} << 30;
  int64_t max_spill_queue_bytes = int64_t{256} << 20;
  int64_t max_prefix_spill_bytes = 0;  // 0 = prefix blocks do not go to disk

  int32_t threads = 0;  // 0 = as PlanThreads says (thread_placement.h)
};

}  // namespace kvasir
