#include "server/grpc/generation_service.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/engine/quota_error.h"
#include "server/frontend/model_description.h"
#include "server/frontend/request_outcome.h"
#include "server/frontend/request_validation.h"
#include "server/grpc/call_metadata.h"
#include "server/grpc/status_mapping.h"
#include "server/grpc/unary_call.h"
#include "server/grpc/wire_message.h"

namespace kvasir {
namespace {

// A full queue moves on when a running request ends, which takes about this long for a short answer
// on a CPU.
constexpr absl::Duration kRetryWhenFull = absl::Seconds(1);
// A daemon that drains does not come back; this is for the client's next attempt, on another
// replica.
constexpr absl::Duration kRetryWhenDraining = absl::Seconds(1);

absl::Status DrainingError() {
  return WithRetryAfter(
      absl::UnavailableError(
          "the daemon is draining and takes no new requests; try another replica"),
      kRetryWhenDraining);
}

// Of calls whose caller is not known (yet): no tenant has this name, so they count as "other".
constexpr char kUnknownTenant[] = "?";

// An engine's refusal in the words of the API: when to retry, and FailedPrecondition (the request
// could never fit the KV pool) as InvalidArgument, for no change of state will help. Those of a
// quota say all that themselves.
absl::Status ForClients(absl::Status refusal) {
  if (QuotaRefusalOf(refusal)) return refusal;
  switch (refusal.code()) {
    case absl::StatusCode::kResourceExhausted:
      return WithRetryAfter(std::move(refusal), kRetryWhenFull);
    case absl::StatusCode::kUnavailable:
      return WithRetryAfter(std::move(refusal), kRetryWhenDraining);
    case absl::StatusCode::kFailedPrecondition:
      return absl::InvalidArgumentError(refusal.message());
    default:
      return refusal;
  }
}

ModelLimits LimitsOf(const ServedModel& served, const Caller& caller) {
  const EngineConfig& config = served.engine->config();
  return {.spec = &served.model->spec(),
          .max_context_tokens = config.max_context_tokens,
          .max_running = config.max_running,
          .default_max_tokens = served.default_max_tokens,
          .attention = caller.config() == nullptr
                           ? served.attention
                           : ForTenant(served.attention, caller.config()->attention)};
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  environment_.observer->OnGenerateStarted();  // the reactor reports the end
  GenerateReactor::Call call;
  call.context = context;
  call.observer = environment_.observer;
  call.stream_writer = environment_.stream_writer;
  call.tenant = kUnknownTenant;
  call.deadline = DeadlineOf(*context);
  const absl::string_view id = RequestIdOf(*context);
  call.request_id = IsRequestId(id) ? std::string(id) : NewRequestId();

  absl::StatusOr<std::shared_ptr<TokenStream>> stream = Start(*request, &call);
  if (!stream.ok()) {
    environment_.observer->OnRejected(call.model, call.tenant, RejectionReason(stream.status()));
    return GenerateReactor::Refuse(std::move(call), ForClients(stream.status()));
  }
  return GenerateReactor::Serve(std::move(call), *std::move(stream));
}

absl::StatusOr<std::shared_ptr<TokenStream>> GenerationService::Start(
    const grpc::ByteBuffer& wire, GenerateReactor::Call* call) const {
  const absl::Time arrival = absl::Now();
  KVASIR_ASSIGN_OR_RETURN(const Caller caller,
                          environment_.authenticator->Identify(*call->context));
  call->tenant = caller.tenant();
  if (environment_.draining->load()) return DrainingError();

  v1::GenerateRequest message;
  KVASIR_RETURN_IF_ERROR(ParseWire(wire, &message));
  KVASIR_ASSIGN_OR_RETURN(ServedModel* const served,
                          environment_.models->Find(message.model(), caller));
  call->model = served->name;

  const ModelLimits limits = LimitsOf(*served, caller);
  KVASIR_ASSIGN_OR_RETURN(
      CheckedRequest checked,
      CheckGenerateRequest(std::move(message), limits, RequestIdOf(*call->context)));
  call->request_id = checked.request.id;
  KVASIR_ASSIGN_OR_RETURN(Engine::Ticket ticket,
                          served->engine->Admit({.tenant = call->tenant,
                                                 .prompt_tokens = checked.prompt_tokens_estimate,
                                                 .max_tokens = checked.request.stopping.max_tokens,
                                                 .n = checked.request.n}));
  KVASIR_ASSIGN_OR_RETURN(GenerationRequest request,
                          EncodePrompt(std::move(checked), *served->tokenizer, limits));
  request.tenant = call->tenant;
  request.arrival = arrival;
  request.deadline = call->deadline;
  return served->engine->Submit(std::move(ticket), std::move(request));
}

grpc::ServerUnaryReactor* GenerationService::Abort(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* reply) {
  const auto abort = [models = environment_.models](
                         const v1::AbortRequest& wanted,
                         const Caller& caller) -> absl::StatusOr<v1::AbortResponse> {
    if (!IsRequestId(wanted.request_id())) {
      return BadFieldError(
          "request_id",
          absl::StrCat(Quoted(wanted.request_id()), " is not a request id; send that of Accepted"));
    }
    // The id does not tell the model: ask them all.
    for (ServedModel* served : models->All()) {
      const absl::Status status = served->engine->Abort(caller.tenant(), wanted.request_id());
      if (status.ok()) return v1::AbortResponse();
      if (!absl::IsNotFound(status)) return status;
    }
    return absl::NotFoundError(absl::StrCat("no request ",
                                            Quoted(wanted.request_id(), kMaxRequestIdBytes),
                                            " is waiting or running; it may have ended"));
  };
  return AnswerOn<v1::AbortRequest>(*environment_.authenticator, environment_.query_worker, context,
                                    request, reply, abort);
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* reply) {
  const auto tokenize = [this](const v1::TokenizeRequest& wanted,
                               const Caller& caller) -> absl::StatusOr<v1::TokenizeResponse> {
    KVASIR_ASSIGN_OR_RETURN(ServedModel* const served,
                            environment_.models->Find(wanted.model(), caller));
    Tokenizer::EncodeOptions options;
    if (wanted.has_add_special_tokens()) options.add_special_tokens = wanted.add_special_tokens();
    options.parse_special_tokens = wanted.parse_special_tokens();
    const absl::StatusOr<std::vector<TokenId>> ids =
        served->tokenizer->Encode(wanted.text(), options);
    if (absl::IsInvalidArgument(ids.status())) return BadFieldError("text", ids.status().message());
    KVASIR_RETURN_IF_ERROR(ids.status());
    v1::TokenizeResponse answer;
    answer.mutable_token_ids()->Add(ids->begin(), ids->end());
    return answer;
  };
  return AnswerNow<v1::TokenizeRequest>(*environment_.authenticator, context, request, reply,
                                        tokenize);
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* reply) {
  const auto detokenize = [this](const v1::DetokenizeRequest& wanted,
                                 const Caller& caller) -> absl::StatusOr<v1::DetokenizeResponse> {
    KVASIR_ASSIGN_OR_RETURN(ServedModel* const served,
                            environment_.models->Find(wanted.model(), caller));
    absl::StatusOr<std::string> text = served->tokenizer->Decode(
        absl::MakeConstSpan(wanted.token_ids().data(), wanted.token_ids_size()),
        wanted.skip_special_tokens());
    if (absl::IsInvalidArgument(text.status())) {
      return BadFieldError("token_ids", text.status().message());
    }
    KVASIR_RETURN_IF_ERROR(text.status());
    v1::DetokenizeResponse answer;
    answer.set_text(*std::move(text));
    return answer;
  };
  return AnswerNow<v1::DetokenizeRequest>(*environment_.authenticator, context, request, reply,
                                          detokenize);
}

grpc::ServerUnaryReactor* GenerationService::ListModels(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* reply) {
  const auto list = [this](const v1::ListModelsRequest&,
                           const Caller& caller) -> absl::StatusOr<v1::ListModelsResponse> {
    v1::ListModelsResponse answer;
    for (const ServedModel* served : environment_.models->AllOf(caller)) {
      *answer.add_models() = DescribeModel(*served);
    }
    return answer;
  };
  return AnswerNow<v1::ListModelsRequest>(*environment_.authenticator, context, request, reply,
                                          list);
}

grpc::ServerUnaryReactor* GenerationService::GetModel(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* reply) {
  const auto get = [this](const v1::GetModelRequest& wanted,
                          const Caller& caller) -> absl::StatusOr<v1::Model> {
    KVASIR_ASSIGN_OR_RETURN(ServedModel* const served,
                            environment_.models->Find(wanted.name(), caller));
    return DescribeModel(*served);
  };
  return AnswerNow<v1::GetModelRequest>(*environment_.authenticator, context, request, reply, get);
}

}  // namespace kvasir
