// kvasir.v1.AdminService: what the daemon holds and does, for operators. Sizes, counts and times,
// never text.
//
// GetStats and ListRequests wait for each engine thread (at most a step) and so run on the query
// worker; LoadModel and UnloadModel are answered by who does it. Thread safe; borrows the
// environment.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "kvasir/v1/admin.grpc.pb.h"
#include "server/frontend/service_environment.h"

namespace kvasir {

using RawAdminService = v1::AdminService::WithRawCallbackMethod_GetStats<
    v1::AdminService::WithRawCallbackMethod_ListRequests<
        v1::AdminService::WithRawCallbackMethod_Drain<
            v1::AdminService::WithRawCallbackMethod_LoadModel<
                v1::AdminService::WithRawCallbackMethod_UnloadModel<v1::AdminService::Service>>>>>;

class AdminService final : public RawAdminService {
 public:
  // `start_drain` does what the first SIGTERM does; it is called from gRPC threads, may be called
  // often and must return at once. `version` is shown in GetStats.
  AdminService(ServiceEnvironment environment, std::string version,
               std::function<void()> start_drain)
      : environment_(environment),
        version_(std::move(version)),
        start_drain_(std::move(start_drain)),
        started_(SteadyNow()) {}

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ListRequests(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* reply) override;
  // Unimplemented without ServiceEnvironment::model_control.
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* reply) override;

 private:
  const ServiceEnvironment environment_;
  const std::string version_;
  const std::function<void()> start_drain_;
  const absl::Time started_;
};

}  // namespace kvasir
