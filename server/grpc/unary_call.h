// The common frame of all unary methods: identify the caller, parse the bytes, ask a handler, send
// its answer or its error.
//
// A handler is any callable absl::StatusOr<Reply>(const Request&, const Caller&). AnswerNow runs it
// on the calling gRPC thread, so it must not block; AnswerOn runs it on the query worker;
// AnswerLater's gives its answer when it has one; AnswerOnTextWorker runs one that takes a
// const TextJob& as well, on a text worker.
// `context`, `wire` and `reply` are those of the raw method and live until the call is finished.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "runtime/engine/refusal.h"
#include "server/frontend/refused_call.h"
#include "server/frontend/request_id.h"
#include "server/frontend/service_environment.h"
#include "server/frontend/text_workers.h"
#include "server/grpc/call_context.h"
#include "server/grpc/status_mapping.h"
#include "server/grpc/wire_message.h"

namespace kvasir {

// Ends the call, and reports it if it was refused. `tenant`: "?" of a caller not known.
template <typename Request>
void FinishUnary(const ServiceEnvironment& environment, grpc::CallbackServerContext* context,
                 grpc::ServerUnaryReactor* reactor, const std::string& tenant,
                 const absl::Status& status) {
  const std::string id = RequestIdOrNew(RequestIdOf(*context));
  // A client that left, or whose time was over, was not refused.
  if (!status.ok() && !absl::IsCancelled(status) && !absl::IsDeadlineExceeded(status)) {
    absl::string_view method = Request::descriptor()->name();
    absl::ConsumeSuffix(&method, "Request");
    environment.observer->OnRefused(DescribeRefusal(std::string(method), id, "", tenant, status));
  }
  AddRetryPushback(status, context);
  reactor->Finish(ToGrpcStatus(status, id));
}

inline std::string TenantOf(const absl::StatusOr<Caller>& caller) {
  return caller.ok() ? caller->tenant() : "?";
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
  FinishUnary<Request>(environment, context, reactor, TenantOf(caller), status);
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
    FinishUnary<Request>(environment, context, reactor, TenantOf(caller), caller.status());
    return reactor;
  }
  auto request = std::make_shared<Request>();
  if (const absl::Status status = ParseWire(*wire, request.get()); !status.ok()) {
    FinishUnary<Request>(environment, context, reactor, TenantOf(caller), status);
    return reactor;
  }
  // The environment belongs to the services, which outlive the worker's queue.
  const bool accepted = environment.query_worker->Post([=, &environment, caller = *caller] {
    auto answer = handler(*request, caller);
    if (answer.ok()) *reply = SerializeWire(*answer);
    FinishUnary<Request>(environment, context, reactor, caller.tenant(), answer.status());
  });
  if (!accepted) {
    FinishUnary<Request>(
        environment, context, reactor, caller->tenant(),
        RefusalError({.reason = RefusalReason::kQueriesFull, .retry_after = absl::Seconds(1)},
                     "too many queries wait for the engines; ask less often"));
  }
  return reactor;
}

// For what takes long: `handler(request, caller, end)` returns at once, with a refusal, or with OK,
// and then end(StatusOr<Reply>) must be called once, from any thread, before the server can stop.
template <typename Request, typename Reply, typename Handler>
grpc::ServerUnaryReactor* AnswerLater(const ServiceEnvironment& environment,
                                      grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* wire, grpc::ByteBuffer* reply,
                                      Handler&& handler) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Request request;
  const absl::StatusOr<Caller> caller =
      environment.authenticator->Identify(CallCredentials(*context));
  absl::Status status = caller.ok() ? ParseWire(*wire, &request) : caller.status();
  const std::string tenant = TenantOf(caller);
  if (status.ok()) {
    const auto end = [=, &environment](const absl::StatusOr<Reply>& answer) {
      if (answer.ok()) *reply = SerializeWire(*answer);
      FinishUnary<Request>(environment, context, reactor, tenant, answer.status());
    };
    status = handler(request, *caller, end);
  }
  if (!status.ok()) FinishUnary<Request>(environment, context, reactor, tenant, status);
  return reactor;
}

// A unary call whose end cancels its job. Owns itself until OnDone.
class TextUnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  explicit TextUnaryReactor(std::shared_ptr<TextJob> job) : job_(std::move(job)) {}
  void OnCancel() override { job_->Cancel(); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<TextJob> job_;
};

// The errors of TextWorkers beside the handler's.
template <typename Request, typename Handler>
grpc::ServerUnaryReactor* AnswerOnTextWorker(const ServiceEnvironment& environment,
                                             grpc::CallbackServerContext* context,
                                             const grpc::ByteBuffer* wire, grpc::ByteBuffer* reply,
                                             Handler handler) {
  const absl::StatusOr<Caller> caller =
      environment.authenticator->Identify(CallCredentials(*context));
  if (!caller.ok()) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    FinishUnary<Request>(environment, context, reactor, TenantOf(caller), caller.status());
    return reactor;
  }
  const std::shared_ptr<TextJob> job =
      environment.text_workers->NewJob(caller->tenant(), wire->Length(), DeadlineOf(*context));
  auto* const reactor = new TextUnaryReactor(job);
  const auto run = [&environment, context, reactor, reply, wire = *wire, caller = *caller,
                    handler = std::move(handler)](const absl::Status& turn,
                                                  const TextJob& its_job) {
    absl::Status status = turn;
    Request request;
    if (status.ok()) status = ParseWire(wire, &request);
    if (status.ok()) {
      auto answer = handler(request, caller, its_job);
      status = answer.status();
      if (answer.ok()) *reply = SerializeWire(*answer);
    }
    FinishUnary<Request>(environment, context, reactor, caller.tenant(), status);
  };
  environment.text_workers->Post(job, run);
  return reactor;
}

}  // namespace kvasir
