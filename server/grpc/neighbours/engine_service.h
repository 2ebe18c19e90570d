// The protocol by which routers (smg, llm-d, Dynamo) speak to vLLM's engine,
// vllm.grpc.engine.VllmEngine: token ids in, token ids out, loads, the tokenizer's files, and what
// the prefix cache learned. For daemons with one model: the protocol names none. What it does not
// do: docs/neighbours.md.
//
// Loads and cache events tell of everybody's work: they want an operator's key where there are
// tenants. Thread safe. Borrows the environment.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "neighbours/vllm/engine.grpc.pb.h"
#include "server/frontend/frontend.h"
#include "server/frontend/service_environment.h"

namespace kvasir {

using VllmEngineBase = ::vllm::grpc::engine::VllmEngine;
using RawVllmEngine = VllmEngineBase::WithRawCallbackMethod_Generate<
    VllmEngineBase::WithRawCallbackMethod_HealthCheck<VllmEngineBase::WithRawCallbackMethod_Abort<
        VllmEngineBase::WithRawCallbackMethod_GetModelInfo<
            VllmEngineBase::WithRawCallbackMethod_GetServerInfo<
                VllmEngineBase::WithRawCallbackMethod_GetLoads<
                    VllmEngineBase::WithRawCallbackMethod_GetTokenizer<
                        VllmEngineBase::WithRawCallbackMethod_SubscribeKvEvents<
                            VllmEngineBase::Service>>>>>>>>;

class VllmEngineService final : public RawVllmEngine {
 public:
  VllmEngineService(const ServiceEnvironment& environment, std::string version);

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* HealthCheck(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* GetLoads(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* reply) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* GetTokenizer(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* SubscribeKvEvents(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;

 private:
  // The model, for a caller who may use it.
  absl::StatusOr<ServedModelRef> Model(const Caller& caller) const;

  const Frontend frontend_;
  const std::string version_;
  const absl::Time started_;
};

}  // namespace kvasir
