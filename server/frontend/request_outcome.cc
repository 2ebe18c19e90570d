#include "server/frontend/request_outcome.h"

#include <utility>

#include "runtime/engine/refusal.h"

namespace kvasir {

const char* OutcomeReason(const FinishedEvent& outcome) {
  if (const auto refusal = RefusalOf(outcome.status); refusal && refusal->is_quota())
    return "quota";
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

}  // namespace kvasir
