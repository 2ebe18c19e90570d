// A refusal: a request did not come to run, for one reason of a closed set. Made once, where it is
// decided, and carried by the absl::Status that every layer passes on anyway; a front end maps it
// once to its own protocol, metrics and logs. Stateless functions.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvasir {

enum class RefusalReason {
  // A tenant's quotas.
  kConcurrency,   // max_requests
  kQueueQuota,    // max_waiting, max_waiting_tokens
  kRate,          // tokens_per_minute
  kKvQuota,       // max_kv_bytes
  kSessionQuota,  // max_sessions
  // What all tenants share.
  kSessionsFull,  // sessions.max_sessions
  kQueueFull,     // scheduler.max_waiting, .max_waiting_tokens; of text and grammar too
  kQueriesFull,   // calls that wait for an engine thread
  kKvPool,        // could never fit the pool
  kDraining,
  kModelLoading,
  kModelUnloading,
  // The call itself.
  kInvalid,
  kUnknownModel,
  kNotFound,  // a session or request
  kUnauthenticated,
  kPermission,
  kError,  // a fault of ours
};

// The word for metrics and logs: "concurrency", "queue_full", ...
const char* RefusalReasonName(RefusalReason reason);

struct Refusal {
  RefusalReason reason = RefusalReason::kInvalid;
  std::string limit = {};                          // the field that bounds it; "" where none does
  std::optional<std::string> tenant = {};          // whose limit it is; none: all tenants share it
  std::optional<absl::Duration> retry_after = {};  // none: waiting does not help

  bool is_quota() const { return reason <= RefusalReason::kSessionsFull; }
};

// The status of a refusal; its code follows from the reason:
//
//   quotas, kSessionsFull    ResourceExhausted with `retry_after`, FailedPrecondition without
//   kQueueFull, kQueriesFull ResourceExhausted
//   kDraining, kModelLoading, kModelUnloading   Unavailable
//   kKvPool, kInvalid        InvalidArgument: no change of state will help
//   kUnknownModel, kNotFound NotFound
//   kUnauthenticated, kPermission, kError   Unauthenticated, PermissionDenied, Internal
//
// `message` says value, limit and remedy; of quotas value and limit, for their name and the remedy
// are added.
absl::Status RefusalError(const Refusal& refusal, absl::string_view message);

// The refusal of a daemon that drains or shuts down: of the engine, and of whoever knows before.
absl::Status DrainingError();

// What a status says of itself; none when nobody said that it is a refusal.
std::optional<Refusal> RefusalOf(const absl::Status& status);

// Of a status that refused a call, whoever made it: its own refusal, or one by its code.
Refusal RefusalOrByCode(const absl::Status& status);

// The payload that carries it, inside the process only.
inline constexpr char kRefusalType[] = "kvasir/refusal";

}  // namespace kvasir
