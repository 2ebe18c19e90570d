#include "server/frontend/request_outcome.h"

#include <utility>

#include "runtime/engine/quota_error.h"

namespace kvasir {

const char* OutcomeReason(const FinishedEvent& outcome) {
  if (QuotaRefusalOf(outcome.status)) return "quota";
  switch (outcome.status.code()) {
    case absl::StatusCode::kOk:
      return outcome.completions.empty() ? "error"
                                         : FinishReasonName(outcome.completions[0].reason);
    case absl::StatusCode::kCancelled:
      return FinishReasonName(FinishReason::kCancelled);
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline";
    case absl::StatusCode::kResourceExhausted:
      return "slow_reader";
    default:
      return "error";
  }
}

const char* RejectionReason(const absl::Status& status) {
  if (const auto refusal = QuotaRefusalOf(status)) {
    if (!refusal->tenant) return "sessions_full";
    constexpr std::pair<const char*, const char*> kReasons[] = {
        {"max_requests", "concurrency"},       {"max_waiting", "queue_quota"},
        {"max_waiting_tokens", "queue_quota"}, {"tokens_per_minute", "rate"},
        {"max_kv_bytes", "kv_quota"},          {"max_sessions", "session_quota"}};
    for (const auto& [quota, reason] : kReasons) {
      if (refusal->quota == quota) return reason;
    }
  }
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return "draining";
    case absl::StatusCode::kResourceExhausted:
      return "queue_full";
    case absl::StatusCode::kFailedPrecondition:
      return "kv_pool";
    case absl::StatusCode::kNotFound:
      return "unknown_model";
    case absl::StatusCode::kUnauthenticated:
      return "unauthenticated";
    default:
      return "invalid";
  }
}

}  // namespace kvasir
