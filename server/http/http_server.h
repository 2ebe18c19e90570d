// An HTTP/1.1 listener: sockets, TLS, framing and their limits; what is answered is HttpService's
// matter.
//
// One I/O thread serves all connections and computes nothing. Every connection is bounded: header
// bytes, body bytes, the time for each, idle time, one answer at a time (pipelined requests wait in
// the socket), one write in flight. Bodies of all connections together are bounded too. A client
// that leaves is noticed at once, also between two writes: a half-closed connection counts as left.
//
// Thread safe. Owns its thread and sockets.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/config/server_config.h"
#include "server/frontend/call_observer.h"
#include "server/http/http_exchange.h"

namespace kvasir {

struct HttpLimits {
  int max_connections = 4096;  // more are closed at once
  size_t max_header_bytes = 16 << 10;
  size_t max_body_bytes = 8 << 20;
  size_t max_total_body_bytes = 256 << 20;  // being read or answered, over all connections
  absl::Duration header_timeout = absl::Seconds(10);
  absl::Duration idle_timeout = absl::Seconds(75);
  // A client that takes nothing for so long is gone. Longer than the engine's own patience with
  // slow readers.
  absl::Duration write_timeout = absl::Seconds(60);
  // A body must come with at least this, after a grace of header_timeout.
  double min_body_bytes_per_second = 64 << 10;
  absl::Duration handshake_timeout = absl::Seconds(20);
};

class HttpServer {
 public:
  // Listens on every address of the host, or on a unix socket, and serves at once. `setting`: what
  // the operator calls the address, for messages ("http_listen"). The service outlives this, and
  // the observer, which is told of TLS files that changed. Unavailable when the address cannot be
  // used, FailedPrecondition when the TLS files cannot.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const HostPort& address, const TlsConfig& tls, const HttpLimits& limits,
      const std::string& setting, HttpService* service, CallObserver* observer = nullptr);

  // As Shutdown.
  virtual ~HttpServer() = default;

  // Where it listens, with the port that was taken when 0 was asked for.
  virtual const HostPort& address() const = 0;

  // Answers under way end as they would, then their connections close; idle ones close now.
  virtual void StartDrain() = 0;
  // Closes everything and joins the thread. Whoever holds an exchange may go on using it in vain.
  virtual void Shutdown() = 0;

  virtual int open_connections() const = 0;
};

}  // namespace kvasir
