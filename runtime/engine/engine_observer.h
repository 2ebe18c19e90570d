// What the engine tells the outside while it works: metrics and request logs hang here, so that the
// engine knows neither Prometheus nor log formats.
//
// All calls come from the engine thread, between or during steps; implementations must be short and
// never block.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/engine/request.h"
#include "runtime/engine/tenants/tenant_usage.h"

namespace kvasir {

// One finished request, sizes and times only.
struct RequestSummary {
  const GenerationRequest* request = nullptr;  // never log its prompt
  const FinishedEvent* outcome = nullptr;
  absl::Duration prefill_time;  // first scheduling to first token
  absl::Duration decode_time;   // first token to the end
};

struct StepSummary {
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
  int32_t draft_tokens = 0;     // guesses checked beside them
  int32_t accepted_tokens = 0;  // of them, those that became output
  int32_t running = 0;
  int32_t waiting = 0;
  absl::Duration schedule_time;
  absl::Duration model_time;
  absl::Duration sample_time;
  absl::Duration output_time;
  int64_t kv_bytes_read = 0;
  int64_t weight_bytes_read = 0;
};

enum class PreemptionReason { kKvExhausted };
enum class CancelCause { kClient, kAbort, kDeadline, kSlowReader, kShutdown };
const char* CancelCauseName(
    CancelCause cause);  // "client", "abort", "deadline", "slow_reader", "shutdown"

class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnScheduled(const GenerationRequest& request, int32_t cached_tokens,
                           absl::Duration queue_time) {}
  virtual void OnFirstToken(const GenerationRequest& request, absl::Duration since_arrival) {}
  // `tokens` more of one sequence after `gap` since its last one.
  virtual void OnTokens(const GenerationRequest& request, int32_t tokens, absl::Duration gap) {}
  virtual void OnPreemption(const GenerationRequest& request, PreemptionReason reason) {}
  virtual void OnCancelled(const GenerationRequest& request, CancelCause cause) {}
  virtual void OnSlowReaderPause(const GenerationRequest& request) {}
  virtual void OnFinished(const RequestSummary& summary) {}
  // What a tenant holds of the engine changed. A tenant's first `before` is empty, and so is its
  // last `now`, but for the byte-seconds.
  virtual void OnTenantUsage(const std::string& tenant, const TenantUsage& before,
                             const TenantUsage& now) {}
  virtual void OnStep(const StepSummary& step) {}
  // A turn ended and its session now holds this many pool bytes.
  virtual void OnSessionTurn(int64_t session_bytes) {}
  // An idle session left the pool: "ttl", "spilled", "dropped", "capacity".
  virtual void OnSessionEvicted(const char* reason) {}
  virtual void OnSpillDamaged(const std::string& message) {}
  // A prefix block could not be written or read, or its file is refused.
  virtual void OnPrefixSpillFault(const std::string& message) {}
};

}  // namespace kvasir
