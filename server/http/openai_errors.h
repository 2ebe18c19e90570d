// Refusals in OpenAI's form: {"error": {"message", "type", "param", "code"}} and a status code by
// which its clients decide whether to try again. Pure, thread safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/http/http_exchange.h"

namespace kvasir {

// 400 what no retry helps, 401, 404, 409 busy session, 429 full or over a quota, 503 draining, 504
// deadline, 500.
int HttpStatusOf(const absl::Status& status);

// The error object as JSON text; "param" has the field's name in the body. Precondition: not OK.
std::string ErrorJson(const absl::Status& status, absl::string_view request_id);

// All of it, with Retry-After where waiting helps.
HttpResponse ErrorResponse(const absl::Status& status, absl::string_view request_id);

// One that has no absl::Status: a wrong path, method, or no HTTP at all.
HttpResponse PlainErrorResponse(int http_status, const std::string& message);

}  // namespace kvasir
