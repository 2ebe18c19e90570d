// What a client finds in grpc-status-details-bin.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"
#include "server/grpc/status_mapping.h"

namespace kvasir::testing {

template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return std::nullopt;
  for (const auto& any : rich.details()) {
    Detail detail;
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

// Description of the violation of `field`; empty when the status has none.
inline std::string ViolationOf(const grpc::Status& status, const std::string& field) {
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  if (!bad) return "";
  for (const auto& violation : bad->field_violations()) {
    if (violation.field() == field) return violation.description();
  }
  return "";
}

inline std::string ViolationOf(const absl::Status& status, const std::string& field) {
  return ViolationOf(ToGrpcStatus(status, "test"), field);
}

}  // namespace kvasir::testing
