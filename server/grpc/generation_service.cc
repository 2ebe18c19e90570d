#include "server/grpc/generation_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "runtime/engine/token_stream.h"
#include "server/grpc/call_context.h"
#include "server/grpc/generate_reactor.h"
#include "server/grpc/unary_call.h"
#include "server/grpc/wire_message.h"

namespace kvasir {

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  const std::string request_id =
      RequestIdOf(*request, v1::GenerateRequest::kRequestIdFieldNumber, *context);
  const std::shared_ptr<GenerateReactor> reactor =
      GenerateReactor::Make(context, frontend_.Begin(request_id, DeadlineOf(*context)));
  GenerationCall* const call = reactor->call();
  const auto start = [this, context, call, wire = *request](
                         const Caller& caller,
                         const TextJob& job) -> absl::StatusOr<std::shared_ptr<TokenStream>> {
    v1::GenerateRequest message;
    KVASIR_RETURN_IF_ERROR(ParseWire(wire, &message));
    return frontend_.Start(std::move(message), caller, RequestIdOf(*context), job, call);
  };
  frontend_.Judge(CallCredentials(*context), request->Length(), call, start,
                  [this, reactor](absl::StatusOr<std::shared_ptr<TokenStream>> stream) {
                    reactor->Begin(std::move(stream), frontend_.environment().stream_writer);
                  });
  return reactor.get();
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
  return AnswerOnTextWorker<v1::TokenizeRequest>(
      frontend_.environment(), context, request, reply,
      [this](const v1::TokenizeRequest& wanted, const Caller& caller, const TextJob& job) {
        return frontend_.Tokenize(wanted, caller, job);
      });
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* reply) {
  return AnswerOnTextWorker<v1::DetokenizeRequest>(
      frontend_.environment(), context, request, reply,
      [this](const v1::DetokenizeRequest& wanted, const Caller& caller, const TextJob&) {
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
  return AnswerOnTextWorker<v1::RenderChatRequest>(
      frontend_.environment(), context, request, reply,
      [this](const v1::RenderChatRequest& wanted, const Caller& caller, const TextJob& job) {
        return frontend_.RenderChat(wanted, caller, job);
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
