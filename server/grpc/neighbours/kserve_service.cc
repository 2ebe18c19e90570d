#include "server/grpc/neighbours/kserve_service.h"

#include <memory>
#include <utility>
#include <variant>

#include "base/status_macros.h"
#include "server/frontend/request_errors.h"
#include "server/grpc/neighbours/kserve_messages.h"
#include "server/grpc/neighbours/kserve_stream.h"
#include "server/grpc/neighbours/neighbour_call.h"
#include "server/grpc/unary_call.h"

namespace kvasir {
namespace {

namespace pb = ::inference;

template <typename Reply>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const Reply& answer,
                                 grpc::ByteBuffer* reply) {
  *reply = SerializeWire(answer);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

// All text in one answer.
class WholeAnswer final : public NeighbourAnswer {
 public:
  explicit WholeAnswer(KserveRequest request)
      : request_(std::move(request)), text_(std::move(request_.echo)) {}

  std::vector<grpc::ByteBuffer> OnEvent(OutputEvent event) override {
    if (const auto* delta = std::get_if<OutputDelta>(&event)) text_ += delta->text;
    return {};
  }
  std::vector<grpc::ByteBuffer> OnFinished(FinishedEvent) override {
    return {SerializeWire(KserveAnswer(request_, text_, /*is_last=*/true))};
  }

 private:
  KserveRequest request_;
  std::string text_;
};

void AddTensor(const char* name, const char* type,
               google::protobuf::RepeatedPtrField<pb::ModelMetadataResponse::TensorMetadata>* to) {
  auto* const tensor = to->Add();
  tensor->set_name(name);
  tensor->set_datatype(type);
  tensor->add_shape(1);
}

}  // namespace

grpc::ServerUnaryReactor* KserveService::ServerLive(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer*,
                                                    grpc::ByteBuffer* reply) {
  pb::ServerLiveResponse answer;
  answer.set_live(true);
  return Answer(context, answer, reply);
}

grpc::ServerUnaryReactor* KserveService::ServerReady(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer*,
                                                     grpc::ByteBuffer* reply) {
  pb::ServerReadyResponse answer;
  answer.set_ready(!frontend_.environment().draining->load());
  return Answer(context, answer, reply);
}

grpc::ServerUnaryReactor* KserveService::ModelReady(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* reply) {
  return AnswerNow<pb::ModelReadyRequest>(
      frontend_.environment(), context, request, reply,
      [this](const pb::ModelReadyRequest& wanted,
             const Caller& caller) -> absl::StatusOr<pb::ModelReadyResponse> {
        const auto served = frontend_.environment().models->Find(wanted.name(), caller);
        // Known, and on its way in or out.
        const bool known = served.ok() || absl::IsUnavailable(served.status());
        if (!known) return served.status();
        pb::ModelReadyResponse answer;
        answer.set_ready(served.ok() && !frontend_.environment().draining->load());
        return answer;
      });
}

grpc::ServerUnaryReactor* KserveService::ServerMetadata(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* reply) {
  return AnswerNow<pb::ServerMetadataRequest>(
      frontend_.environment(), context, request, reply,
      [this](const pb::ServerMetadataRequest&,
             const Caller&) -> absl::StatusOr<pb::ServerMetadataResponse> {
        pb::ServerMetadataResponse answer;
        answer.set_name("kvasird");
        answer.set_version(version_);
        return answer;
      });
}

grpc::ServerUnaryReactor* KserveService::ModelMetadata(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* reply) {
  return AnswerNow<pb::ModelMetadataRequest>(
      frontend_.environment(), context, request, reply,
      [this](const pb::ModelMetadataRequest& wanted,
             const Caller& caller) -> absl::StatusOr<pb::ModelMetadataResponse> {
        KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served,
                                frontend_.environment().models->Find(wanted.name(), caller));
        pb::ModelMetadataResponse answer;
        answer.set_name(served->name);
        answer.add_versions("1");
        answer.set_platform("kvasir");
        AddTensor("text_input", "BYTES", answer.mutable_inputs());
        AddTensor("stream", "BOOL", answer.mutable_inputs());
        AddTensor("sampling_parameters", "BYTES", answer.mutable_inputs());
        AddTensor("exclude_input_in_output", "BOOL", answer.mutable_inputs());
        AddTensor("text_output", "BYTES", answer.mutable_outputs());
        return answer;
      });
}

grpc::ServerUnaryReactor* KserveService::ModelInfer(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* reply) {
  return AnswerNeighbour(frontend_, context, *request, pb::ModelInferRequest::kIdFieldNumber, reply,
                         [](const grpc::ByteBuffer& wire, const Caller&,
                            const TextJob&) -> absl::StatusOr<NeighbourRequest> {
                           pb::ModelInferRequest wanted;
                           KVASIR_RETURN_IF_ERROR(ParseKnown(wire, &wanted));
                           KVASIR_ASSIGN_OR_RETURN(KserveRequest read, ReadKserveRequest(wanted));
                           if (read.stream) {
                             return BadFieldError(
                                 "stream", "wants more than one answer; call ModelStreamInfer");
                           }
                           NeighbourRequest request;
                           request.message = std::move(read.message);
                           request.answer = std::make_unique<WholeAnswer>(std::move(read));
                           return request;
                         });
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* KserveService::ModelStreamInfer(
    grpc::CallbackServerContext* context) {
  return ServeKserveStream(frontend_, context);
}

}  // namespace kvasir
