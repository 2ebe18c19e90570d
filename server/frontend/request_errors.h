// Refusals of a request as absl::Status with details in google.rpc's messages as payloads: what
// every front end answers with, each in its own form.
//
// Stateless functions, safe from any thread. Everything said is bounded: a gRPC peer that meets
// more than 8 KiB of trailers drops them all and reports another error.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvasir {

// Longer messages are cut. Percent-encoding may triple them, and google.rpc.Status repeats them.
inline constexpr size_t kMaxErrorMessageBytes = 1024;
// Violations beyond these are counted in the message only; longer descriptions are cut.
inline constexpr size_t kMaxFieldViolations = 8;
inline constexpr size_t kMaxViolationBytes = 256;

// The payload's type URL: google.rpc.RetryInfo.
inline constexpr char kRetryInfoType[] = "type.googleapis.com/google.rpc.RetryInfo";

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

// The first field that BadRequestError named; empty for any other status.
std::string FirstBadField(const absl::Status& status);

// `status` with google.rpc.RetryInfo: trying again makes sense after `delay`.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);
// What WithRetryAfter or a refusal (runtime/engine/refusal.h) says.
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

// The message for clients: valid UTF-8 of at most kMaxErrorMessageBytes. Internal, Unknown and
// DataLoss become a fixed text with the request id, and their own message goes to the log: it was
// written for operators and could hold what clients must not see. Precondition: not OK.
std::string MessageForClients(const absl::Status& status, absl::string_view request_id);

}  // namespace kvasir
