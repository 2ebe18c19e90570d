// What a failed call said, as an absl::Status: the gRPC code and message, and the details of
// grpc-status-details-bin as status payloads (key = the detail's type URL).
//
// Pure functions; nothing here retries.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace kvasir {

// The same code and message; details that do not parse are dropped.
absl::Status StatusFromCall(const grpc::Status& status);

struct FieldViolation {
  std::string field;        // "sampling.temperature"
  std::string description;  // what was wrong, the value, the limit and the remedy
};

// Of google.rpc.BadRequest; empty when the error carries none.
std::vector<FieldViolation> FieldViolations(const absl::Status& status);

// Of google.rpc.RetryInfo: when the server thinks that a retry makes sense.
std::optional<absl::Duration> RetryDelay(const absl::Status& status);

// "INVALID_ARGUMENT", as gRPC spells codes.
absl::string_view CodeName(absl::StatusCode code);

// For people: code and message, one line per field violation that the message does not already
// contain, and the retry hint.
std::string DescribeError(const absl::Status& status);

}  // namespace kvasir
