#include "server/grpc/generation_service.h"

#include <utility>

#include "base/status_macros.h"
#include "server/grpc/call_context.h"
#include "server/grpc/generate_reactor.h"
#include "server/grpc/unary_call.h"
#include "server/grpc/wire_message.h"

namespace kvasir {

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  std::unique_ptr<GenerationCall> call =
      frontend_.Begin(RequestIdOf(*context), DeadlineOf(*context));
  absl::StatusOr<std::shared_ptr<TokenStream>> stream = Start(*context, *request, call.get());
  if (!stream.ok()) {
    const absl::Status refusal = Frontend::Refuse(std::move(stream).status(), call.get());
    return GenerateReactor::Refuse(context, std::move(call), refusal);
  }
  return GenerateReactor::Serve(context, std::move(call), *std::move(stream),
                                frontend_.environment().stream_writer);
}

absl::StatusOr<std::shared_ptr<TokenStream>> GenerationService::Start(
    const grpc::CallbackServerContext& context, const grpc::ByteBuffer& wire,
    GenerationCall* call) const {
  KVASIR_ASSIGN_OR_RETURN(const Caller caller, frontend_.Enter(CallCredentials(context), call));
  v1::GenerateRequest message;
  KVASIR_RETURN_IF_ERROR(ParseWire(wire, &message));
  return frontend_.Start(std::move(message), caller, RequestIdOf(context), call);
}

grpc::ServerUnaryReactor* GenerationService::Abort(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* reply) {
  return AnswerOn<v1::AbortRequest>(frontend_.environment(), context, request, reply,
                                    [this](const v1::AbortRequest& wanted, const Caller& caller) {
                                      return frontend_.Abort(wanted, caller);
                                    });
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* reply) {
  return AnswerNow<v1::TokenizeRequest>(
      frontend_.environment(), context, request, reply,
      [this](const v1::TokenizeRequest& wanted, const Caller& caller) {
        return frontend_.Tokenize(wanted, caller);
      });
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* reply) {
  return AnswerNow<v1::DetokenizeRequest>(
      frontend_.environment(), context, request, reply,
      [this](const v1::DetokenizeRequest& wanted, const Caller& caller) {
        return frontend_.Detokenize(wanted, caller);
      });
}

grpc::ServerUnaryReactor* GenerationService::ListModels(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* reply) {
  return AnswerNow<v1::ListModelsRequest>(
      frontend_.environment(), context, request, reply,
      [this](const v1::ListModelsRequest&, const Caller& caller)
          -> absl::StatusOr<v1::ListModelsResponse> { return frontend_.ListModels(caller); });
}

grpc::ServerUnaryReactor* GenerationService::RenderChat(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* reply) {
  return AnswerNow<v1::RenderChatRequest>(
      frontend_.environment(), context, request, reply,
      [this](const v1::RenderChatRequest& wanted, const Caller& caller) {
        return frontend_.RenderChat(wanted, caller);
      });
}

grpc::ServerUnaryReactor* GenerationService::GetModel(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* reply) {
  return AnswerNow<v1::GetModelRequest>(
      frontend_.environment(), context, request, reply,
      [this](const v1::GetModelRequest& wanted, const Caller& caller) {
        return frontend_.GetModel(wanted, caller);
      });
}

}  // namespace kvasir
