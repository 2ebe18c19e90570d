// The web page at / and the live picture of KV memory behind it, GET /kvasir/v1/memory; everything
// else is the API's.
//
// The page is static and open to everybody; what it shows it asks for with its reader's key. Thread
// safe. Borrows everything.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "server/frontend/service_environment.h"
#include "server/http/http_exchange.h"

namespace kvasir {

class PageService final : public HttpService {
 public:
  // `api` answers what is not the page's.
  PageService(const ServiceEnvironment& environment, std::string version, HttpService* api);

  std::optional<HttpResponse> Refuse(const HttpRequest& head) const override;
  void Serve(std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse Fault(int status, const std::string& message) const override;

 private:
  HttpResponse Memory(const HttpRequest& request) const;

  const ServiceEnvironment environment_;
  const std::string version_;
  HttpService* const api_;
  const absl::Time started_;
};

}  // namespace kvasir
