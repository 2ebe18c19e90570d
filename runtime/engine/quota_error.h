// A refusal because of a quota, a tenant's or the engine's own, as an absl::Status that still knows
// which one, so that the server can put it into google.rpc.QuotaFailure and metrics. Stateless
// functions.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvasir {

struct QuotaRefusal {
  std::string quota;                          // the field of TenantLimits or EngineConfig
  std::optional<std::string> tenant;          // none: all tenants share it
  std::optional<absl::Duration> retry_after;  // none: waiting does not help
};

// ResourceExhausted with `retry_after`, FailedPrecondition without. `message` says value and limit;
// the quota's name and the remedy are added.
absl::Status QuotaError(QuotaRefusal refusal, absl::string_view message);

// What a status says about quotas; none when it is no quota's doing.
std::optional<QuotaRefusal> QuotaRefusalOf(const absl::Status& status);

}  // namespace kvasir
