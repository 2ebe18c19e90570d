// Addresses to listen at, as configurations and flags write them. Plain values; thread safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// Where to listen. Port 0 = any free one.
struct HostPort {
  std::string host;  // a name or an address; IPv6 without brackets
  int port = 0;
  std::string unix_path = {};  // absolute, of a unix socket; then there is no host

  // "HOST:PORT", IPv6 in brackets, or "unix:///PATH": what gRPC and people read.
  std::string ToString() const;
  // Whether only this machine can reach it.
  bool IsLocal() const;
};

// "127.0.0.1:50051", "[::1]:0", "localhost:9464", "0.0.0.0:80", "unix:///run/kvasird.sock".
// InvalidArgument names what is missing.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

}  // namespace kvasir
