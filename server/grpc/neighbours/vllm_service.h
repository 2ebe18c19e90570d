// vLLM's text protocol, vllm.Inference and vllm.Control: text or token ids in, text and token ids
// out. What it does not do: docs/neighbours.md.
//
// Thread safe. Borrows the environment.
#pragma once

#include <string>

#include "neighbours/vllm/inference.grpc.pb.h"
#include "server/frontend/frontend.h"
#include "server/frontend/service_environment.h"

namespace kvasir {

using RawVllmInference = ::vllm::Inference::WithRawCallbackMethod_Generate<
    ::vllm::Inference::WithRawCallbackMethod_GenerateStream<::vllm::Inference::Service>>;

class VllmInferenceService final : public RawVllmInference {
 public:
  explicit VllmInferenceService(const ServiceEnvironment& environment) : frontend_(environment) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* reply) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;

 private:
  const Frontend frontend_;
};

using RawVllmControl = ::vllm::Control::WithRawCallbackMethod_GetServerInfo<
    ::vllm::Control::WithRawCallbackMethod_GetModelInfo<
        ::vllm::Control::WithRawCallbackMethod_Abort<::vllm::Control::Service>>>;

class VllmControlService final : public RawVllmControl {
 public:
  // `version`: the daemon's.
  VllmControlService(const ServiceEnvironment& environment, std::string version);

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* reply) override;

 private:
  const Frontend frontend_;
  const std::string version_;
  const std::string instance_id_;
};

}  // namespace kvasir
