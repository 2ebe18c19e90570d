// The listener for scrapes alone: GET /metrics in Prometheus' text format and GET /healthz (200
// "ok" or 503 "draining"), without TLS and without a key.
//
// Printing runs on a worker of its own, so that a probe never waits behind a scrape. Thread safe.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/config/server_config.h"
#include "server/frontend/call_observer.h"
#include "server/frontend/worker_thread.h"
#include "server/http/http_exchange.h"
#include "server/http/http_server.h"

namespace kvasir {

class MetricsEndpoint final : public HttpService {
 public:
  struct Pages {
    std::function<std::string()> metrics;
    std::function<bool()> healthy;
  };

  // Listens at once. Unavailable when the address cannot be used. `observer` is told of refused
  // connections, and outlives this.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const HostPort& address,
                                                                Pages pages,
                                                                CallObserver* observer = nullptr);

  ~MetricsEndpoint() override;
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;

  // Where it listens, with the port that was taken when 0 was asked for.
  const HostPort& address() const { return server_->address(); }

  std::optional<HttpResponse> Refuse(const HttpRequest& head) const override;
  void Serve(std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse Fault(int status, const std::string& message) const override;

 private:
  explicit MetricsEndpoint(Pages pages);

  const Pages pages_;
  WorkerThread printer_;
  std::unique_ptr<HttpServer> server_;  // first to end: it calls the others
};

}  // namespace kvasir
