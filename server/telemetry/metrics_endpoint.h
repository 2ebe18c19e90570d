// The HTTP side door: GET /metrics in Prometheus' text format and GET /healthz (200 "ok" or 503
// "draining").
//
// It runs on civetweb, the server that prometheus-cpp's own exposer is made of, used directly
// because the exposer has no way to serve a second page. Owns its threads; everything it calls is
// called from them.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/config/server_config.h"

struct mg_context;
struct mg_connection;

namespace kvasir {

class MetricsEndpoint {
 public:
  struct Pages {
    std::function<std::string()> metrics;
    std::function<bool()> healthy;
  };

  // Listens at once. Unavailable when the address cannot be used, with civetweb's reason.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const HostPort& address,
                                                                Pages pages);

  // Waits for requests under way (bounded by the request timeout).
  ~MetricsEndpoint();
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;

  // Where it listens, with the port that was taken when 0 was asked for.
  const HostPort& address() const { return address_; }

 private:
  MetricsEndpoint(HostPort address, Pages pages)
      : address_(std::move(address)), pages_(std::move(pages)) {}

  // civetweb's log: the reasons of a failed start, then debug lines.
  static int OnLogMessage(const mg_connection* connection, const char* message);
  static int ServeMetrics(mg_connection* connection, void* self);
  static int ServeHealth(mg_connection* connection, void* self);

  HostPort address_;  // constant after Start
  const Pages pages_;
  std::string start_messages_;  // written by the thread inside Start only
  std::atomic<bool> started_{false};
  mg_context* context_ = nullptr;
};

}  // namespace kvasir
