// The common frame of all unary methods: parse the bytes, ask a handler, send its answer or its
// error.
//
// A handler is any callable absl::StatusOr<Reply>(const Request&). AnswerNow runs it on the calling
// gRPC thread, so it must not block; AnswerOn runs it on a worker. `context`, `wire` and `reply`
// are those of the raw method and live until the call is finished.
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
#include "server/call_metadata.h"
#include "server/status_mapping.h"
#include "server/wire_message.h"
#include "server/worker_thread.h"

namespace kvasir {

// Ends the call.
inline void FinishUnary(grpc::CallbackServerContext* context, grpc::ServerUnaryReactor* reactor,
                        const absl::Status& status) {
  AddRetryPushback(status, context);
  const absl::string_view id = RequestIdOf(*context);
  reactor->Finish(ToGrpcStatus(status, IsRequestId(id) ? std::string(id) : NewRequestId()));
}

template <typename Request, typename Handler>
grpc::ServerUnaryReactor* AnswerNow(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* wire, grpc::ByteBuffer* reply,
                                    Handler&& handler) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Request request;
  absl::Status status = ParseWire(*wire, &request);
  if (status.ok()) {
    auto answer = handler(request);
    status = answer.status();
    if (answer.ok()) *reply = SerializeWire(*answer);
  }
  FinishUnary(context, reactor, status);
  return reactor;
}

// ResourceExhausted when too many such calls wait already.
template <typename Request, typename Handler>
grpc::ServerUnaryReactor* AnswerOn(WorkerThread* worker, grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* wire, grpc::ByteBuffer* reply,
                                   Handler handler) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto request = std::make_shared<Request>();
  if (const absl::Status status = ParseWire(*wire, request.get()); !status.ok()) {
    FinishUnary(context, reactor, status);
    return reactor;
  }
  const bool accepted = worker->Post([=] {
    auto answer = handler(*request);
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
