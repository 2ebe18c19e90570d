#include "server/grpc/neighbours/neighbour_call.h"

#include <deque>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "google/protobuf/unknown_field_set.h"
#include "server/frontend/generation_pump.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/request_id.h"
#include "server/grpc/status_mapping.h"

namespace kvasir {
namespace {

struct Begun {
  std::unique_ptr<GenerationCall> call;
  std::shared_ptr<TokenStream> stream;
  std::unique_ptr<NeighbourAnswer> answer;
};

// The generation, or the refusal in the words of the API.
absl::Status Begin(const Frontend& frontend, const grpc::CallbackServerContext& context,
                   const grpc::ByteBuffer& wire, const ReadNeighbour& read, Begun* begun) {
  begun->call = frontend.Begin(RequestIdOf(context), DeadlineOf(context));
  const absl::Status status = [&]() -> absl::Status {
    KVASIR_ASSIGN_OR_RETURN(const Caller caller,
                            frontend.Enter(CallCredentials(context), begun->call.get()));
    KVASIR_ASSIGN_OR_RETURN(NeighbourRequest request, read(wire, caller));
    begun->answer = std::move(request.answer);
    KVASIR_ASSIGN_OR_RETURN(begun->stream, frontend.Start(std::move(request.message), caller,
                                                          RequestIdOf(context), begun->call.get()));
    return absl::OkStatus();
  }();
  return status.ok() ? status : Frontend::Refuse(status, begun->call.get());
}

class StreamReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public EventSink {
 public:
  StreamReactor(grpc::CallbackServerContext* context, Begun begun)
      : context_(context), call_(std::move(begun.call)), answer_(std::move(begun.answer)) {
    context_->AddInitialMetadata(kRequestIdKey, call_->request_id);
  }

  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Serve(grpc::CallbackServerContext* context,
                                                           Begun begun, WorkerThread* writer) {
    auto pump =
        std::make_shared<GenerationPump>(std::move(begun.stream), writer, begun.call->arrival,
                                         begun.call->deadline, std::move(begun.call->reader));
    const auto reactor = std::make_shared<StreamReactor>(context, std::move(begun));
    reactor->self_ = reactor;
    reactor->pump_ = std::move(pump);
    reactor->StartSendInitialMetadata();
    reactor->pump_->Start(reactor);
    return reactor.get();
  }

  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Refuse(grpc::CallbackServerContext* context,
                                                            Begun begun,
                                                            const absl::Status& status) {
    const auto reactor = std::make_shared<StreamReactor>(context, std::move(begun));
    reactor->self_ = reactor;
    reactor->FinishWith(status);
    return reactor.get();
  }

  bool Write(OutputEvent event) override {
    for (grpc::ByteBuffer& message : answer_->OnEvent(std::move(event))) {
      waiting_.push_back(std::move(message));
    }
    if (waiting_.empty()) return false;
    WriteNext();
    return true;
  }

  void End(const absl::Status& status, OutputFinished finished) override {
    Frontend::Finish(status, call_.get());
    if (!status.ok()) return FinishWith(status);
    for (grpc::ByteBuffer& message : answer_->OnFinished(std::move(finished))) {
      waiting_.push_back(std::move(message));
    }
    ended_ = true;
    if (waiting_.empty()) return Finish(grpc::Status::OK);
    WriteNext();
  }

  void OnWriteDone(bool ok) override {
    if (ok && !waiting_.empty()) return WriteNext();
    if (ended_) return Finish(grpc::Status::OK);
    pump_->OnWriteDone(ok);
  }
  void OnCancel() override {
    if (pump_ != nullptr) pump_->Cancel();
  }
  void OnDone() override { const std::shared_ptr<StreamReactor> last = std::move(self_); }

 private:
  void WriteNext() {
    out_ = std::move(waiting_.front());
    waiting_.pop_front();
    StartWrite(&out_);
  }
  void FinishWith(const absl::Status& status) {
    AddRetryPushback(status, context_);
    Finish(ToGrpcStatus(status, call_->request_id));
  }

  grpc::CallbackServerContext* const context_;
  const std::unique_ptr<GenerationCall> call_;
  const std::unique_ptr<NeighbourAnswer> answer_;
  std::shared_ptr<GenerationPump> pump_;  // null after Refuse
  std::shared_ptr<StreamReactor> self_;   // what keeps it alive until OnDone

  // The pump's side; while a write is in flight, gRPC's.
  std::deque<grpc::ByteBuffer> waiting_;
  grpc::ByteBuffer out_;
  bool ended_ = false;
};

class UnaryReactor final : public grpc::ServerUnaryReactor, public EventSink {
 public:
  UnaryReactor(grpc::CallbackServerContext* context, grpc::ByteBuffer* reply, Begun begun)
      : context_(context),
        reply_(reply),
        call_(std::move(begun.call)),
        answer_(std::move(begun.answer)) {}

  static grpc::ServerUnaryReactor* Serve(grpc::CallbackServerContext* context,
                                         grpc::ByteBuffer* reply, Begun begun,
                                         WorkerThread* writer) {
    auto pump =
        std::make_shared<GenerationPump>(std::move(begun.stream), writer, begun.call->arrival,
                                         begun.call->deadline, std::move(begun.call->reader));
    const auto reactor = std::make_shared<UnaryReactor>(context, reply, std::move(begun));
    reactor->self_ = reactor;
    reactor->pump_ = std::move(pump);
    reactor->pump_->Start(reactor);
    return reactor.get();
  }

  bool Write(OutputEvent event) override {
    answer_->OnEvent(std::move(event));
    return false;
  }
  void End(const absl::Status& status, OutputFinished finished) override {
    Frontend::Finish(status, call_.get());
    if (status.ok()) {
      *reply_ = std::move(answer_->OnFinished(std::move(finished)).front());
      return Finish(grpc::Status::OK);
    }
    AddRetryPushback(status, context_);
    Finish(ToGrpcStatus(status, call_->request_id));
  }

  void OnCancel() override { pump_->Cancel(); }
  void OnDone() override { const std::shared_ptr<UnaryReactor> last = std::move(self_); }

 private:
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const reply_;
  const std::unique_ptr<GenerationCall> call_;
  const std::unique_ptr<NeighbourAnswer> answer_;
  std::shared_ptr<GenerationPump> pump_;
  std::shared_ptr<UnaryReactor> self_;
};

// The path of a field that the message's type does not know; empty when there is none.
std::string UnknownField(const google::protobuf::Message& message) {
  const google::protobuf::Reflection* const reflection = message.GetReflection();
  if (const auto& unknown = reflection->GetUnknownFields(message); !unknown.empty()) {
    return absl::StrCat("number ", unknown.field(0).number());
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const std::string inner =
          UnknownField(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i)
                                            : reflection->GetMessage(message, field));
      if (!inner.empty()) return absl::StrCat(field->name(), ".", inner);
    }
  }
  return "";
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamNeighbour(const Frontend& frontend,
                                                            grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer& wire,
                                                            const ReadNeighbour& read) {
  Begun begun;
  const absl::Status status = Begin(frontend, *context, wire, read, &begun);
  if (!status.ok()) return StreamReactor::Refuse(context, std::move(begun), status);
  return StreamReactor::Serve(context, std::move(begun), frontend.environment().stream_writer);
}

grpc::ServerUnaryReactor* AnswerNeighbour(const Frontend& frontend,
                                          grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer& wire, grpc::ByteBuffer* reply,
                                          const ReadNeighbour& read) {
  Begun begun;
  const absl::Status status = Begin(frontend, *context, wire, read, &begun);
  if (status.ok()) {
    return UnaryReactor::Serve(context, reply, std::move(begun),
                               frontend.environment().stream_writer);
  }
  AddRetryPushback(status, context);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status, begun.call->request_id));
  return reactor;
}

absl::Status ParseKnown(const grpc::ByteBuffer& wire, google::protobuf::Message* message) {
  KVASIR_RETURN_IF_ERROR(ParseWire(wire, message));
  const std::string unknown = UnknownField(*message);
  return unknown.empty() ? absl::OkStatus() : NotSupported(unknown);
}

absl::Status NotSupported(absl::string_view field) {
  return BadFieldError(field, "is not supported here; leave it out");
}

}  // namespace kvasir
