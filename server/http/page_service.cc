#include "server/http/page_service.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/quoted.h"
#include "base/steady_time.h"
#include "runtime/engine/refusal.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/request_id.h"
#include "server/http/memory_json.h"
#include "server/http/openai_errors.h"
#include "server/http/page_files.h"

namespace kvasir {
namespace {

constexpr char kMemoryPath[] = "/kvasir/v1/memory";
constexpr char kPagePrefix[] = "/page/";

// Nothing from elsewhere, nothing inline, in nobody's frame.
constexpr char kContentPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

// The description of the API, for tools.
constexpr char kOpenApiPath[] = "/openapi.json";

bool IsPage(absl::string_view path) {
  return path == "/" || path == kOpenApiPath || absl::StartsWith(path, kPagePrefix);
}

const PageFile* FindPage(absl::string_view path) {
  absl::string_view name = path;
  if (!absl::ConsumePrefix(&name, kPagePrefix)) {
    name = path == kOpenApiPath ? "openapi.json" : "index.html";
  }
  for (const PageFile& file : PageFiles()) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

const char* ContentType(absl::string_view name) {
  if (absl::EndsWith(name, ".html")) return "text/html; charset=utf-8";
  if (absl::EndsWith(name, ".css")) return "text/css; charset=utf-8";
  if (absl::EndsWith(name, ".json")) return "application/json";
  return "text/javascript; charset=utf-8";
}

HttpResponse PageResponse(const PageFile& file) {
  HttpResponse response;
  response.content_type = ContentType(file.name);
  response.body = std::string(file.content);
  response.headers = {{"Content-Security-Policy", kContentPolicy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cross-Origin-Opener-Policy", "same-origin"},
                      {"Cache-Control", "no-cache"}};
  return response;
}

HttpResponse Refused(const HttpRequest& request, const absl::Status& status) {
  return ErrorResponse(status, RequestIdOrNew(request.Header(kRequestIdKey)));
}

}  // namespace

PageService::PageService(const ServiceEnvironment& environment, std::string version,
                         HttpService* api)
    : environment_(environment), version_(std::move(version)), api_(api), started_(SteadyNow()) {}

std::optional<HttpResponse> PageService::Refuse(const HttpRequest& head) const {
  const bool page = IsPage(head.path);
  if (!page && head.path != kMemoryPath) return api_->Refuse(head);
  if (head.method != "GET" && head.method != "HEAD") {
    HttpResponse response =
        PlainErrorResponse(405, absl::StrCat(Quoted(head.path, 128), " takes GET only"));
    response.headers.emplace_back("Allow", "GET, HEAD");
    return response;
  }
  if (page) {
    if (FindPage(head.path) != nullptr) return std::nullopt;
    return PlainErrorResponse(404, absl::StrCat("there is no page ", Quoted(head.path, 128)));
  }
  const absl::StatusOr<Caller> caller = environment_.authenticator->Identify(head);
  if (caller.ok()) return std::nullopt;
  return Refused(head, caller.status());
}

void PageService::Serve(std::shared_ptr<HttpExchange> exchange) {
  const HttpRequest& request = exchange->request();
  if (IsPage(request.path)) return exchange->Send(PageResponse(*FindPage(request.path)));
  if (request.path != kMemoryPath) return api_->Serve(std::move(exchange));
  // It waits for the engines, at most a step of each.
  const bool posted = environment_.query_worker->Post(
      [this, exchange] { exchange->Send(Memory(exchange->request())); });
  if (posted) return;
  exchange->Send(
      Refused(request,
              RefusalError({.reason = RefusalReason::kQueriesFull, .retry_after = absl::Seconds(1)},
                           "too many queries wait for the engines; ask less often")));
}

HttpResponse PageService::Memory(const HttpRequest& request) const {
  const absl::StatusOr<Caller> caller = environment_.authenticator->Identify(request);
  if (!caller.ok()) return Refused(request, caller.status());
  nlohmann::ordered_json out;
  out["version"] = version_;
  out["uptime_seconds"] = absl::ToDoubleSeconds(SteadyNow() - started_);
  out["draining"] = environment_.draining->load();
  out["tenant"] = caller->tenant();
  out["admin"] = caller->admin();
  nlohmann::ordered_json& models = out["models"] = nlohmann::ordered_json::array();
  for (const ServedModelRef& served : environment_.models->AllOf(*caller)) {
    models.push_back(DescribeMemory(*served, *caller));
  }
  HttpResponse response;
  response.body = out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  response.headers.emplace_back("Cache-Control", "no-store");
  return response;
}

HttpResponse PageService::Fault(int status, const std::string& message) const {
  return api_->Fault(status, message);
}

}  // namespace kvasir
