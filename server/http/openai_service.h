// The pages of the HTTP port: OpenAI's API, what its clients probe, and the operator's. Each path
// is served with and without /v1 in front.
//
// Keys are looked at before a body is read. Bodies are parsed, and prompts tokenised, on text
// workers. Thread safe. Borrows everything.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/frontend/frontend.h"
#include "server/http/http_exchange.h"

namespace kvasir {

struct OpenAiPages {
  std::function<std::string()> metrics;  // Prometheus' text
  std::function<bool()> healthy;
  std::string version;
  // Origins of web pages that may read answers: "https://chat.example", or "*". Empty: none.
  std::vector<std::string> cors_origins;
};

class OpenAiService final : public HttpService {
 public:
  OpenAiService(const ServiceEnvironment& environment, OpenAiPages pages);
  ~OpenAiService() override;

  std::optional<HttpResponse> Refuse(const HttpRequest& head) const override;
  void Serve(std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse Fault(int status, const std::string& message) const override;

 private:
  // What the answer to a web page carries, so that its browser lets it read.
  HttpHeaders CorsHeaders(const HttpRequest& request) const;
  HttpResponse Preflight(const HttpRequest& request) const;
  HttpResponse Models(const HttpRequest& request, absl::string_view name) const;
  // Pages that read texts, on a text worker.
  using TextPage = absl::StatusOr<nlohmann::ordered_json> (*)(const Frontend& frontend,
                                                              const HttpRequest& request,
                                                              const Caller& caller,
                                                              const TextJob& job);
  void OnTextWorker(const std::shared_ptr<HttpExchange>& exchange,
                    std::function<void(HttpResponse)> send, TextPage page) const;
  HttpResponse Metrics(const HttpRequest& request) const;
  HttpResponse Health() const;

  const Frontend frontend_;
  const OpenAiPages pages_;
};

}  // namespace kvasir
