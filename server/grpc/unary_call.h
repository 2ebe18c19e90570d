// The common frame of all unary methods: identify the caller, parse the bytes, ask a handler, send
// its answer or its error.
//
// A handler is any callable absl::StatusOr<Reply>(const Request&, const Caller&). AnswerNow runs it
// on the calling gRPC thread, so it must not block; AnswerOn runs it on the query worker.
// `context`, `wire` and `reply` are those of the raw method and live until the call is finished.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/request_id.h"
#include "server/frontend/service_environment.h"
#include "server/grpc/call_context.h"
#include "server/grpc/status_mapping.h"
#include "server/grpc/wire_message.h"

namespace kvasir {

// Ends the call.
inline void FinishUnary(grpc::CallbackServerContext* context, grpc::ServerUnaryReactor* reactor,
                        const absl::Status& status) {
  AddRetryPushback(status, context);
  reactor->Finish(ToGrpcStatus(status, RequestIdOrNew(RequestIdOf(*context))));
}

template <typename Request, typename Handler>
grpc::ServerUnaryReactor* AnswerNow(const ServiceEnvironment& environment,
                                    grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* wire, grpc::ByteBuffer* reply,
                                    Handler&& handler) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Request request;
  const absl::StatusOr<Caller> caller =
      environment.authenticator->Identify(CallCredentials(*context));
  absl::Status status = caller.ok() ? ParseWire(*wire, &request) : caller.status();
  if (status.ok()) {
    auto answer = handler(request, *caller);
    status = answer.status();
    if (answer.ok()) *reply = SerializeWire(*answer);
  }
  FinishUnary(context, reactor, status);
  return reactor;
}

// ResourceExhausted when too many such calls wait already.
template <typename Request, typename Handler>
grpc::ServerUnaryReactor* AnswerOn(const ServiceEnvironment& environment,
                                   grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* wire, grpc::ByteBuffer* reply,
                                   Handler handler) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::StatusOr<Caller> caller =
      environment.authenticator->Identify(CallCredentials(*context));
  if (!caller.ok()) {
    FinishUnary(context, reactor, caller.status());
    return reactor;
  }
  auto request = std::make_shared<Request>();
  if (const absl::Status status = ParseWire(*wire, request.get()); !status.ok()) {
    FinishUnary(context, reactor, status);
    return reactor;
  }
  const bool accepted = environment.query_worker->Post([=, caller = *caller] {
    auto answer = handler(*request, caller);
    if (answer.ok()) *reply = SerializeWire(*answer);
    FinishUnary(context, reactor, answer.status());
  });
  if (!accepted) {
    FinishUnary(context, reactor,
                WithRetryAfter(absl::ResourceExhaustedError(
                                   "too many queries wait for the engines; ask less often"),
                               absl::Seconds(1)));
  }
  return reactor;
}

}  // namespace kvasir
