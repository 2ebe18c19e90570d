#include "server/http/metrics_endpoint.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace kvasir {
namespace {

constexpr char kMetricsPath[] = "/metrics";
constexpr char kHealthPath[] = "/healthz";
// Scrapes that may wait for the one being printed.
constexpr size_t kMaxPendingScrapes = 64;

HttpLimits ScrapeLimits() {
  HttpLimits limits;
  // Scrapers and probes are few, and send no bodies.
  limits.max_connections = 256;
  limits.max_body_bytes = 1 << 10;
  limits.max_total_body_bytes = 256 << 10;
  limits.header_timeout = absl::Seconds(5);
  limits.write_timeout = absl::Seconds(10);
  return limits;
}

HttpResponse Text(int status, std::string body) {
  HttpResponse response;
  response.status = status;
  response.content_type = "text/plain; charset=utf-8";
  response.body = std::move(body);
  response.headers.emplace_back("Cache-Control", "no-store");
  return response;
}

}  // namespace

MetricsEndpoint::MetricsEndpoint(Pages pages)
    : pages_(std::move(pages)), printer_("scrapes", kMaxPendingScrapes) {}

MetricsEndpoint::~MetricsEndpoint() {
  if (server_ != nullptr) server_->Shutdown();
}

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const HostPort& address,
                                                                        Pages pages,
                                                                        CallObserver* observer) {
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint(std::move(pages)));
  absl::StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Start(
      address, TlsConfig(), ScrapeLimits(), "metrics_listen", endpoint.get(), observer);
  if (!server.ok()) return server.status();
  endpoint->server_ = *std::move(server);
  return endpoint;
}

std::optional<HttpResponse> MetricsEndpoint::Refuse(const HttpRequest& head) const {
  if (head.path != kMetricsPath && head.path != kHealthPath) {
    return Text(404, absl::StrCat("here are ", kMetricsPath, " and ", kHealthPath, " only\n"));
  }
  if (head.method == "GET" || head.method == "HEAD") return std::nullopt;
  HttpResponse response = Text(405, "only GET is served here\n");
  response.headers.emplace_back("Allow", "GET, HEAD");
  return response;
}

void MetricsEndpoint::Serve(std::shared_ptr<HttpExchange> exchange) {
  if (exchange->request().path == kHealthPath) {
    const bool healthy = pages_.healthy();
    return exchange->Send(Text(healthy ? 200 : 503, healthy ? "ok\n" : "draining\n"));
  }
  const bool posted = printer_.Post([this, exchange] {
    std::string figures = pages_.metrics();
    if (figures.empty()) return exchange->Send(Text(503, "no memory for the figures\n"));
    HttpResponse response = Text(200, std::move(figures));
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    exchange->Send(std::move(response));
  });
  if (!posted) exchange->Send(Text(503, "too many scrapes at once\n"));
}

HttpResponse MetricsEndpoint::Fault(int status, const std::string& message) const {
  return Text(status, message + "\n");
}

}  // namespace kvasir
