#include "server/http/openai_errors.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "server/frontend/request_errors.h"

namespace kvasir {
namespace {

using nlohmann::ordered_json;

const char* TypeOf(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 409:
      return "conflict_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "unavailable_error";
    case 504:
      return "timeout_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

const char* CodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
      return "invalid_api_key";
    case absl::StatusCode::kNotFound:
      return "model_not_found";
    case absl::StatusCode::kResourceExhausted:
      return "rate_limit_exceeded";
    case absl::StatusCode::kFailedPrecondition:
      return "quota_exceeded";
    case absl::StatusCode::kUnimplemented:
      return "unsupported";
    case absl::StatusCode::kAborted:
      return "session_busy";
    default:
      return nullptr;
  }
}

// The API's field as the body calls it: "sampling.top_p" is top_p there.
std::string ParamOf(const absl::Status& status) {
  const std::string field = FirstBadField(status);
  absl::string_view name = field;
  for (const char* group : {"sampling.", "stopping.", "output."}) absl::ConsumePrefix(&name, group);
  if (name == "text" || name == "token_ids" || absl::StartsWith(name, "token_ids.")) {
    return "prompt";
  }
  if (absl::StartsWith(name, "messages.tool_choice")) return "tool_choice";
  if (absl::StartsWith(name, "messages.tools_json")) return "tools";
  return std::string(name);
}

std::string ToJson(int http_status, const std::string& message, const std::string& param,
                   const char* code) {
  ordered_json error;
  error["message"] = message;
  error["type"] = TypeOf(http_status);
  error["param"] = param.empty() ? ordered_json() : ordered_json(param);
  error["code"] = code == nullptr ? ordered_json() : ordered_json(code);
  ordered_json body;
  body["error"] = std::move(error);
  return body.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:  // a quota that waiting does not change
    case absl::StatusCode::kUnimplemented:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:  // by the operator or Abort; a client that left reads
                                        // nothing
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string ErrorJson(const absl::Status& status, absl::string_view request_id) {
  return ToJson(HttpStatusOf(status), MessageForClients(status, request_id), ParamOf(status),
                CodeOf(status));
}

HttpResponse ErrorResponse(const absl::Status& status, absl::string_view request_id) {
  HttpResponse response;
  response.status = HttpStatusOf(status);
  response.body = ErrorJson(status, request_id);
  if (const std::optional<absl::Duration> delay = RetryAfter(status)) {
    const double seconds = std::max(1.0, std::ceil(absl::ToDoubleSeconds(*delay)));
    response.headers.emplace_back("Retry-After", absl::StrCat(static_cast<int64_t>(seconds)));
  }
  if (response.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

HttpResponse PlainErrorResponse(int http_status, const std::string& message) {
  HttpResponse response;
  response.status = http_status;
  response.body = ToJson(http_status, message, "", nullptr);
  return response;
}

}  // namespace kvasir
