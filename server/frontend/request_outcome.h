// How refused and finished requests are called in metrics and logs: closed sets of words. Pure,
// thread safe.
#pragma once

#include "absl/status/status.h"
#include "runtime/engine/request.h"

namespace kvasir {

// "eos", "stop", "length", "context_full" (of the first completion) when it ended well; else
// "cancelled", "deadline", "slow_reader", "quota" (refused by one), or "error".
const char* OutcomeReason(const FinishedEvent& outcome);

// Why a request did not come to run. A tenant's quotas: "concurrency" (max_requests), "queue_quota"
// (max_waiting, max_waiting_tokens), "rate" (tokens_per_minute), "kv_quota" (max_kv_bytes),
// "session_quota" (max_sessions). Others: "sessions_full" (sessions.max_sessions, which all tenants
// share), "queue_full", "kv_pool", "draining", "invalid", "unknown_model", "unauthenticated".
const char* RejectionReason(const absl::Status& status);

}  // namespace kvasir
