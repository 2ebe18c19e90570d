#include "server/http/openai_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/quoted.h"
#include "runtime/engine/refusal.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/request_id.h"
#include "server/http/generation_exchange.h"
#include "server/http/openai_errors.h"
#include "server/http/tokenize_pages.h"

namespace kvasir {
namespace {

using nlohmann::ordered_json;

enum class Page {
  kChat,
  kCompletions,
  kResponses,
  kEmbeddings,
  kTokenize,
  kDetokenize,
  kModels,
  kModel,
  kHealth,
  kVersion,
  kMetrics
};

struct Route {
  const char* path;
  const char* method;  // GET stands for HEAD too
  Page page;
  bool open;  // needs no credential
};

constexpr Route kRoutes[] = {
    {"/chat/completions", "POST", Page::kChat, false},
    {"/completions", "POST", Page::kCompletions, false},
    {"/responses", "POST", Page::kResponses, false},
    {"/embeddings", "POST", Page::kEmbeddings, false},
    {"/tokenize", "POST", Page::kTokenize, false},
    {"/detokenize", "POST", Page::kDetokenize, false},
    {"/models", "GET", Page::kModels, false},
    {"/health", "GET", Page::kHealth, true},
    {"/healthz", "GET", Page::kHealth, true},
    {"/ping", "GET", Page::kHealth, true},
    {"/version", "GET", Page::kVersion, true},
    {"/metrics", "GET", Page::kMetrics, false},
};
constexpr Route kModelRoute = {"/models/", "GET", Page::kModel, false};

// Without a final slash and the version in front.
absl::string_view ShortPath(absl::string_view path) {
  absl::ConsumePrefix(&path, "/v1");
  if (path.size() > 1) absl::ConsumeSuffix(&path, "/");
  return path;
}

const Route* RouteOf(const HttpRequest& request) {
  const absl::string_view path = ShortPath(request.path);
  for (const Route& route : kRoutes) {
    if (path == route.path) return &route;
  }
  return absl::StartsWith(path, kModelRoute.path) ? &kModelRoute : nullptr;
}

bool Takes(const Route& route, const std::string& method) {
  return method == route.method || (method == "HEAD" && absl::string_view(route.method) == "GET");
}

// "org%2Fmodel" is "org/model".
std::string PercentDecoded(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto hex = [&](size_t at) {
      const char c = at < text.size() ? text[at] : ' ';
      if (c >= '0' && c <= '9') return c - '0';
      const char lower = static_cast<char>(c | 0x20);
      return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
    };
    if (text[i] == '%' && hex(i + 1) >= 0 && hex(i + 2) >= 0) {
      out.push_back(static_cast<char>(hex(i + 1) * 16 + hex(i + 2)));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::string Dump(const ordered_json& body) {
  return body.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

HttpResponse JsonResponse(const ordered_json& body) {
  HttpResponse response;
  response.body = Dump(body);
  return response;
}

ordered_json ModelJson(const v1::Model& model) {
  ordered_json out;
  out["id"] = model.name();
  out["object"] = "model";
  out["created"] = model.loaded_unix_seconds();
  out["owned_by"] = "kvasir";
  out["max_model_len"] = model.context_tokens();
  ordered_json& more = out["kvasir"];
  more["architecture"] = model.architecture();
  more["sharing"] = model.sharing();
  more["parameters"] = model.parameters();
  more["kv_bytes_per_token_resident"] = model.kv_bytes_per_token_resident();
  more["kv_bytes_per_token_read"] = model.kv_bytes_per_token_read();
  more["kv_pool_bytes"] = model.kv_pool_bytes();
  return out;
}

HttpResponse Refused(const HttpRequest& request, const absl::Status& status) {
  return ErrorResponse(status, RequestIdOrNew(request.Header(kRequestIdKey)));
}

}  // namespace

OpenAiService::OpenAiService(const ServiceEnvironment& environment, OpenAiPages pages)
    : frontend_(environment), pages_(std::move(pages)) {}

OpenAiService::~OpenAiService() = default;

HttpResponse OpenAiService::Fault(int status, const std::string& message) const {
  return PlainErrorResponse(status, message);
}

std::optional<HttpResponse> OpenAiService::Refuse(const HttpRequest& head) const {
  const auto with_cors = [&](HttpResponse response) {
    const HttpHeaders cors = CorsHeaders(head);
    response.headers.insert(response.headers.end(), cors.begin(), cors.end());
    return response;
  };
  const Route* route = RouteOf(head);
  if (route == nullptr) {
    return with_cors(PlainErrorResponse(
        404, absl::StrCat("there is no page ", Quoted(head.path, 128),
                          "; the API is under /v1: chat/completions, completions, responses, "
                          "models, tokenize, detokenize")));
  }
  // Browsers ask before they send a key.
  if (head.method == "OPTIONS") return Preflight(head);
  if (!Takes(*route, head.method)) {
    HttpResponse response = PlainErrorResponse(
        405, absl::StrCat(Quoted(head.path, 128), " takes ", route->method, " only"));
    const bool reads = absl::string_view(route->method) == "GET";
    response.headers.emplace_back("Allow", reads ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
    return with_cors(std::move(response));
  }
  if (route->open) return std::nullopt;
  const absl::StatusOr<Caller> caller = frontend_.environment().authenticator->Identify(head);
  if (caller.ok()) {
    const absl::string_view encoding = head.Header("content-encoding");
    if (encoding.empty() || absl::EqualsIgnoreCase(encoding, "identity")) return std::nullopt;
    HttpResponse response =
        PlainErrorResponse(415, absl::StrCat("a body with Content-Encoding ", Quoted(encoding, 64),
                                             " is not read here; send it as it is"));
    response.headers.emplace_back("Accept-Encoding", "identity");
    return with_cors(std::move(response));
  }
  absl::Status refusal = caller.status();
  if (route->page == Page::kChat || route->page == Page::kCompletions ||
      route->page == Page::kResponses) {
    const auto call = frontend_.Begin(head.Header(kRequestIdKey), absl::InfiniteFuture());
    refusal = Frontend::Refuse(std::move(refusal), call.get());
  }
  return with_cors(Refused(head, refusal));
}

void OpenAiService::Serve(std::shared_ptr<HttpExchange> exchange) {
  const HttpRequest& request = exchange->request();
  const Route* const route = RouteOf(request);
  const Page page = route == nullptr ? Page::kHealth : route->page;  // Refuse saw to it
  HttpHeaders cors = CorsHeaders(request);
  const auto send = [exchange, cors](HttpResponse response) {
    response.headers.insert(response.headers.end(), cors.begin(), cors.end());
    exchange->Send(std::move(response));
  };
  switch (page) {
    case Page::kHealth:
      return send(Health());
    case Page::kVersion:
      return send(JsonResponse({{"version", pages_.version}}));
    case Page::kModels:
      return send(Models(request, ""));
    case Page::kModel:
      return send(Models(request, ShortPath(request.path).substr(sizeof("/models/") - 1)));
    case Page::kEmbeddings:
      return send(Refused(
          request, absl::UnimplementedError("the models served here generate text and make no "
                                            "embeddings; use another server for them")));
    case Page::kChat:
      return AnswerGeneration(frontend_, exchange, AnswerForm::kChat, std::move(cors));
    case Page::kCompletions:
      return AnswerGeneration(frontend_, exchange, AnswerForm::kCompletion, std::move(cors));
    case Page::kResponses:
      return AnswerGeneration(frontend_, exchange, AnswerForm::kResponses, std::move(cors));
    case Page::kTokenize:
      return OnTextWorker(exchange, send, Tokenize);
    case Page::kDetokenize:
      return OnTextWorker(exchange, send, Detokenize);
    case Page::kMetrics:
      break;
  }
  // Adding up and printing the figures takes a while.
  const auto metrics = [this, exchange, send] { send(Metrics(exchange->request())); };
  if (frontend_.environment().query_worker->Post(metrics)) return;
  send(Refused(request, RefusalError({.reason = RefusalReason::kQueriesFull,
                                      .retry_after = absl::Seconds(1)},
                                     "too many queries wait; ask less often")));
}

void OpenAiService::OnTextWorker(const std::shared_ptr<HttpExchange>& exchange,
                                 std::function<void(HttpResponse)> send, TextPage page) const {
  const HttpRequest& request = exchange->request();
  const absl::StatusOr<Caller> caller = frontend_.environment().authenticator->Identify(request);
  if (!caller.ok()) return send(Refused(request, caller.status()));
  TextWorkers* const workers = frontend_.environment().text_workers;
  const std::shared_ptr<TextJob> job =
      workers->NewJob(caller->tenant(), request.body.size(), absl::InfiniteFuture());
  exchange->OnClientGone([job] { job->Cancel(); });
  workers->Post(job, [this, exchange, send = std::move(send), caller = *caller, page](
                         const absl::Status& turn, const TextJob& its_job) {
    const absl::StatusOr<ordered_json> answer =
        turn.ok() ? page(frontend_, exchange->request(), caller, its_job) : turn;
    send(answer.ok() ? JsonResponse(*answer) : Refused(exchange->request(), answer.status()));
  });
}

HttpHeaders OpenAiService::CorsHeaders(const HttpRequest& request) const {
  if (pages_.cors_origins.empty()) return {};
  // Whoever asked: a cache must not give one origin's answer to another.
  const HttpHeaders vary = {{"Vary", "Origin"}};
  const absl::string_view origin = request.Header("origin");
  if (origin.empty()) return vary;
  const bool known =
      std::any_of(pages_.cors_origins.begin(), pages_.cors_origins.end(),
                  [&](const std::string& allowed) { return allowed == "*" || allowed == origin; });
  if (!known) return vary;
  return {{"Access-Control-Allow-Origin", std::string(origin)},
          {"Access-Control-Expose-Headers",
           "x-request-id, retry-after, kvasir-cached-tokens, kvasir-kv-bytes-peak, "
           "kvasir-queue-ms, kvasir-total-ms"},
          {"Vary", "Origin"}};
}

HttpResponse OpenAiService::Preflight(const HttpRequest& request) const {
  HttpResponse response;
  response.status = 204;
  response.content_type = "";
  response.headers = CorsHeaders(request);
  if (response.headers.size() <= 1) return response;  // an origin that is not known, or none
  const absl::string_view wanted = request.Header("access-control-request-headers");
  response.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  response.headers.emplace_back("Access-Control-Allow-Headers",
                                wanted.empty() ? "*" : std::string(wanted));
  response.headers.emplace_back("Access-Control-Max-Age", "600");
  return response;
}

HttpResponse OpenAiService::Models(const HttpRequest& request, absl::string_view name) const {
  const absl::StatusOr<Caller> caller = frontend_.environment().authenticator->Identify(request);
  if (!caller.ok()) return Refused(request, caller.status());
  if (name.empty()) {
    ordered_json list = {{"object", "list"}, {"data", ordered_json::array()}};
    const v1::ListModelsResponse models = frontend_.ListModels(*caller);
    for (const v1::Model& model : models.models()) {
      if (model.state() != v1::MODEL_STATE_READY) continue;  // nobody may use it
      list["data"].push_back(ModelJson(model));
    }
    return JsonResponse(list);
  }
  v1::GetModelRequest wanted;
  wanted.set_name(PercentDecoded(name));
  const absl::StatusOr<v1::Model> model = frontend_.GetModel(wanted, *caller);
  if (!model.ok()) return Refused(request, model.status());
  if (model->state() != v1::MODEL_STATE_READY) {
    return Refused(request, frontend_.environment().models->Find(wanted.name(), *caller).status());
  }
  return JsonResponse(ModelJson(*model));
}

HttpResponse OpenAiService::Metrics(const HttpRequest& request) const {
  // They tell when and how much others work.
  const absl::StatusOr<Caller> caller = frontend_.environment().authenticator->Identify(request);
  if (!caller.ok()) return Refused(request, caller.status());
  if (!caller->admin()) {
    return Refused(request, absl::PermissionDeniedError(
                                "metrics are for tenants with admin: true; scrape metrics_listen"));
  }
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = pages_.metrics();
  if (!response.body.empty()) return response;
  return Refused(request, absl::ResourceExhaustedError("no memory for the figures; try again"));
}

HttpResponse OpenAiService::Health() const {
  const bool healthy = pages_.healthy();
  HttpResponse response = JsonResponse({{"status", healthy ? "ok" : "draining"}});
  response.status = healthy ? 200 : 503;
  response.headers.emplace_back("Cache-Control", "no-store");
  return response;
}

}  // namespace kvasir
