#include "runtime/engine/refusal.h"

#include <cstdint>
#include <iterator>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"

namespace kvasir {
namespace {

constexpr const char* kNames[] = {
    "concurrency",     "queue_quota",     "rate",         "kv_quota",      "session_quota",
    "sessions_full",   "queue_full",      "queries_full", "kv_pool",       "draining",
    "model_loading",   "model_unloading", "invalid",      "unknown_model", "not_found",
    "unauthenticated", "permission",      "error"};
static_assert(std::size(kNames) == static_cast<size_t>(RefusalReason::kError) + 1);

// The payload is "<reason> <limit, or -> <retry after in ms, or -1> ", then "of <tenant>" if it is
// one's: whatever a tenant is called stands last.
constexpr absl::string_view kOf = "of ";
constexpr absl::string_view kNoLimit = "-";

absl::StatusCode CodeOf(const Refusal& refusal) {
  switch (refusal.reason) {
    case RefusalReason::kConcurrency:
    case RefusalReason::kQueueQuota:
    case RefusalReason::kRate:
    case RefusalReason::kKvQuota:
    case RefusalReason::kSessionQuota:
    case RefusalReason::kSessionsFull:
      return refusal.retry_after ? absl::StatusCode::kResourceExhausted
                                 : absl::StatusCode::kFailedPrecondition;
    case RefusalReason::kQueueFull:
    case RefusalReason::kQueriesFull:
      return absl::StatusCode::kResourceExhausted;
    case RefusalReason::kDraining:
    case RefusalReason::kModelLoading:
    case RefusalReason::kModelUnloading:
      return absl::StatusCode::kUnavailable;
    case RefusalReason::kKvPool:
    case RefusalReason::kInvalid:
      return absl::StatusCode::kInvalidArgument;
    case RefusalReason::kUnknownModel:
    case RefusalReason::kNotFound:
      return absl::StatusCode::kNotFound;
    case RefusalReason::kUnauthenticated:
      return absl::StatusCode::kUnauthenticated;
    case RefusalReason::kPermission:
      return absl::StatusCode::kPermissionDenied;
    case RefusalReason::kError:
      return absl::StatusCode::kInternal;
  }
  return absl::StatusCode::kInternal;
}

RefusalReason ReasonByCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kNotFound:
      return RefusalReason::kNotFound;
    case absl::StatusCode::kUnauthenticated:
      return RefusalReason::kUnauthenticated;
    case absl::StatusCode::kPermissionDenied:
      return RefusalReason::kPermission;
    case absl::StatusCode::kUnavailable:
      return RefusalReason::kDraining;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return RefusalReason::kError;
    default:
      return RefusalReason::kInvalid;
  }
}

std::string HolderName(const std::optional<std::string>& tenant) {
  if (!tenant) return "this model, for all tenants";
  return tenant->empty() ? "the anonymous tenant" : absl::StrCat("tenant ", *tenant);
}

void SetPayload(const Refusal& refusal, absl::Status* status) {
  // Rounded up: who comes back a little early would be refused again.
  const int64_t retry_ms =
      refusal.retry_after
          ? absl::ToInt64Milliseconds(absl::Ceil(*refusal.retry_after, absl::Milliseconds(1)))
          : -1;
  status->SetPayload(
      kRefusalType,
      absl::Cord(absl::StrCat(static_cast<int>(refusal.reason), " ",
                              refusal.limit.empty() ? kNoLimit : refusal.limit, " ", retry_ms, " ",
                              refusal.tenant ? absl::StrCat(kOf, *refusal.tenant) : "")));
}

}  // namespace

const char* RefusalReasonName(RefusalReason reason) { return kNames[static_cast<size_t>(reason)]; }

absl::Status RefusalError(const Refusal& refusal, absl::string_view message) {
  std::string text(message);
  if (refusal.is_quota()) {
    absl::StrAppend(&text, " (", refusal.limit, " of ", HolderName(refusal.tenant), "); ",
                    refusal.retry_after ? "try again later"
                                        : "no waiting helps: ask for less, or for a larger quota");
  }
  absl::Status status(CodeOf(refusal), text);
  SetPayload(refusal, &status);
  return status;
}

absl::Status DrainingError() {
  // It does not come back; the time is for the client's next attempt, on another replica.
  return RefusalError({.reason = RefusalReason::kDraining, .retry_after = absl::Seconds(1)},
                      "the daemon is draining and takes no new requests; try another replica");
}

std::optional<Refusal> RefusalOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRefusalType);
  if (!payload) return std::nullopt;
  const std::vector<std::string> parts =
      absl::StrSplit(std::string(*payload), absl::MaxSplits(' ', 3));
  int reason = 0;
  int64_t retry_ms = 0;
  KVASIR_CHECK(parts.size() == 4 && absl::SimpleAtoi(parts[0], &reason) &&
               absl::SimpleAtoi(parts[2], &retry_ms));  // written above
  Refusal refusal{.reason = static_cast<RefusalReason>(reason)};
  if (parts[1] != kNoLimit) refusal.limit = parts[1];
  if (retry_ms >= 0) refusal.retry_after = absl::Milliseconds(retry_ms);
  if (absl::string_view tenant = parts[3]; absl::ConsumePrefix(&tenant, kOf)) {
    refusal.tenant = std::string(tenant);
  }
  return refusal;
}

Refusal RefusalOrByCode(const absl::Status& status) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  return refusal ? *refusal : Refusal{.reason = ReasonByCode(status.code())};
}

}  // namespace kvasir
