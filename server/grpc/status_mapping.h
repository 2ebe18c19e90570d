// How errors leave the daemon: absl::Status with details as payloads inside, grpc::Status with
// google.rpc.Status in the trailer grpc-status-details-bin outside.
//
// Stateless functions, safe from any thread. Everything sent is bounded (see
// kMaxErrorMessageBytes), because a peer that meets more than 8 KiB of trailers drops them all and
// reports another error.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/status.h"

namespace kvasir {

// Longer messages are cut. Percent-encoding may triple them, and google.rpc.Status repeats them.
inline constexpr size_t kMaxErrorMessageBytes = 1024;
// Violations beyond these are counted in the message only; longer descriptions are cut.
inline constexpr size_t kMaxFieldViolations = 8;
inline constexpr size_t kMaxViolationBytes = 256;

// One field that broke a limit: path such as "sampling.temperature"; what was wrong, value, limit
// and remedy.
struct FieldViolation {
  std::string field;
  std::string description;
};

// InvalidArgument with google.rpc.BadRequest. Precondition: `violations` is not empty.
absl::Status BadRequestError(const std::vector<FieldViolation>& violations);

// The same for one field.
absl::Status BadFieldError(absl::string_view field, absl::string_view description);

// `status` with google.rpc.RetryInfo: trying again makes sense after `delay`.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);
// What WithRetryAfter or a quota's refusal (quota_error.h) says.
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

// What the client gets. A quota's refusal carries google.rpc.QuotaFailure, and RetryInfo where
// waiting helps. Internal, Unknown and DataLoss become a fixed text with the request id, and
// their own message goes to the log: it was written for operators and could hold what clients must
// not see.
grpc::Status ToGrpcStatus(const absl::Status& status, absl::string_view request_id);

// Adds the trailer grpc-retry-pushback-ms when the status says when to retry. Before Finish.
void AddRetryPushback(const absl::Status& status, grpc::ServerContextBase* context);

// `text` for an error message: cut to `max_bytes`, bytes outside printable ASCII escaped.
std::string Quoted(absl::string_view text, size_t max_bytes = 64);

}  // namespace kvasir
