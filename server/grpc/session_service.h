// kvasir.v1.SessionService: what clients may ask and do about the KV caches kept under their
// session names.
//
// Every method waits for an engine thread (at most a step each) and so runs on the query worker.
// All answer Unavailable while the daemon drains. A session of another tenant is NotFound. Thread
// safe; borrows the environment.
#pragma once

#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "kvasir/v1/session.grpc.pb.h"
#include "server/frontend/service_environment.h"

namespace kvasir {

using RawSessionService = v1::SessionService::WithRawCallbackMethod_GetSession<
    v1::SessionService::WithRawCallbackMethod_ListSessions<
        v1::SessionService::WithRawCallbackMethod_ForkSession<
            v1::SessionService::WithRawCallbackMethod_DeleteSession<v1::SessionService::Service>>>>;

class SessionService final : public RawSessionService {
 public:
  explicit SessionService(ServiceEnvironment environment) : environment_(environment) {}

  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ForkSession(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* reply) override;

 private:
  // The model that a session's call names; Unavailable while draining.
  absl::StatusOr<ServedModelRef> FindModel(const std::string& name, const Caller& caller) const;

  const ServiceEnvironment environment_;
};

}  // namespace kvasir
