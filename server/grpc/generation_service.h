// kvasir.v1.GenerationService: the gRPC door for clients, a thin layer over Frontend.
//
// A Generate call is judged on a text worker; from its stream on GenerateReactor answers. So are
// the calls that encode, decode or render. Abort waits for an engine thread (at most a step) and so
// runs on the query worker.
//
// Thread safe. Borrows the environment, which must outlive the gRPC server.
#pragma once

#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "kvasir/v1/generation.grpc.pb.h"
#include "server/frontend/frontend.h"
#include "server/frontend/service_environment.h"

namespace kvasir {

// Raw methods take bytes: see wire_message.h for the reason.
using RawGenerationService = v1::GenerationService::WithRawCallbackMethod_Generate<
    v1::GenerationService::WithRawCallbackMethod_Abort<
        v1::GenerationService::WithRawCallbackMethod_RenderChat<
            v1::GenerationService::WithRawCallbackMethod_Tokenize<
                v1::GenerationService::WithRawCallbackMethod_Detokenize<
                    v1::GenerationService::WithRawCallbackMethod_ListModels<
                        v1::GenerationService::WithRawCallbackMethod_GetModel<
                            v1::GenerationService::Service>>>>>>>;

class GenerationService final : public RawGenerationService {
 public:
  explicit GenerationService(const ServiceEnvironment& environment) : frontend_(environment) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* RenderChat(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* reply) override;

 private:
  const Frontend frontend_;
};

}  // namespace kvasir
