// One HTTP request for generated text, from its body to the last byte of its answer: starts a
// generation for each of its prompts and gathers their events into one answer.
//
// Headers wait for the first result, so that a failure before it still has its own status code; in
// a silence longer than kKeepAliveSeconds the stream begins all the same, with comments that keep
// clients and proxies from giving up. A client that leaves cancels all of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "server/frontend/frontend.h"
#include "server/frontend/generation_call.h"
#include "server/frontend/generation_pump.h"
#include "server/http/http_exchange.h"
#include "server/http/openai_answer.h"

namespace kvasir {

inline constexpr double kKeepAliveSeconds = 10;

// Returns at once: the body is read, and prompts encoded, on a text worker. `headers` go into every
// answer. The frontend outlives the exchange's answer.
void AnswerGeneration(const Frontend& frontend, std::shared_ptr<HttpExchange> exchange,
                      AnswerForm form, HttpHeaders headers);

}  // namespace kvasir
