// How errors leave through gRPC: absl::Status with details as payloads (request_errors.h) inside,
// grpc::Status with google.rpc.Status in the trailer grpc-status-details-bin outside.
//
// Stateless functions, safe from any thread.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/status.h"

namespace kvasir {

// What the client gets, in the words of MessageForClients. A quota's refusal carries
// google.rpc.QuotaFailure, and RetryInfo where waiting helps.
grpc::Status ToGrpcStatus(const absl::Status& status, absl::string_view request_id);

// Adds the trailer grpc-retry-pushback-ms when the status says when to retry. Before Finish.
void AddRetryPushback(const absl::Status& status, grpc::ServerContextBase* context);

}  // namespace kvasir
