// KServe's open inference protocol with Triton's stream, inference.GRPCInferenceService: text_input
// in, text_output out, both BYTES. What it does not do: docs/neighbours.md.
//
// Thread safe. Borrows the environment.
#pragma once

#include <string>

#include "neighbours/inference/grpc_service.grpc.pb.h"
#include "server/frontend/frontend.h"
#include "server/frontend/service_environment.h"

namespace kvasir {

using KserveBase = ::inference::GRPCInferenceService;
using RawKserve = KserveBase::WithRawCallbackMethod_ServerLive<
    KserveBase::WithRawCallbackMethod_ServerReady<KserveBase::WithRawCallbackMethod_ModelReady<
        KserveBase::WithRawCallbackMethod_ServerMetadata<
            KserveBase::WithRawCallbackMethod_ModelMetadata<
                KserveBase::WithRawCallbackMethod_ModelInfer<
                    KserveBase::WithRawCallbackMethod_ModelStreamInfer<KserveBase::Service>>>>>>>;

class KserveService final : public RawKserve {
 public:
  KserveService(const ServiceEnvironment& environment, std::string version)
      : frontend_(environment), version_(std::move(version)) {}

  // Live and ready are open to everybody, as health is.
  grpc::ServerUnaryReactor* ServerLive(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ServerReady(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ModelReady(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ServerMetadata(grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ModelMetadata(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* reply) override;
  // The requests of one stream are answered one after the other.
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ModelStreamInfer(
      grpc::CallbackServerContext* context) override;

 private:
  const Frontend frontend_;
  const std::string version_;
};

}  // namespace kvasir
