// What a call's metadata says about it: under which request id, until when. Who calls is
// authenticator.h's matter.
//
// Stateless functions, safe from any thread while the call lives.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"

namespace kvasir {

inline constexpr char kRequestIdKey[] = "x-request-id";
inline constexpr size_t kMaxRequestIdBytes = 128;

// The value of x-request-id, unchecked; empty when absent. Lives as long as the call.
absl::string_view RequestIdOf(const grpc::ServerContextBase& context);

// 1 to 128 printable ASCII characters without blanks: safe in metadata, logs and command lines.
bool IsRequestId(absl::string_view id);

// A new id, unique for practical purposes: 128 random bits in hex.
std::string NewRequestId();

// InfiniteFuture when the client set none.
absl::Time DeadlineOf(const grpc::ServerContextBase& context);

}  // namespace kvasir
