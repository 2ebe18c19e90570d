#include "server/grpc/neighbours/neighbour_call.h"

#include <deque>

#include "absl/strings/str_cat.h"
#include "google/protobuf/unknown_field_set.h"
#include "server/frontend/generation_pump.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/request_id.h"
#include "server/grpc/status_mapping.h"

namespace kvasir {
namespace {

// Has a reactor's generation judged: it has call() and context(), and Begin() gets the end of it.
template <typename Reactor>
void Judge(const Frontend& frontend, const grpc::ByteBuffer& wire, const ReadNeighbour& read,
           const std::shared_ptr<Reactor>& reactor) {
  const auto answer = std::make_shared<std::unique_ptr<NeighbourAnswer>>();
  grpc::CallbackServerContext* const context = reactor->context();
  GenerationCall* const call = reactor->call();
  const auto start = [&frontend, context, call, wire, read, answer](
                         const Caller& caller,
                         const TextJob& job) -> absl::StatusOr<std::shared_ptr<TokenStream>> {
    KVASIR_ASSIGN_OR_RETURN(NeighbourRequest request, read(wire, caller, job));
    *answer = std::move(request.answer);
    return frontend.Start(std::move(request.message), caller, RequestIdOf(*context), job, call);
  };
  frontend.Judge(CallCredentials(*context), wire.Length(), call, start,
                 [&frontend, reactor, answer](absl::StatusOr<std::shared_ptr<TokenStream>> stream) {
                   reactor->Begin(std::move(stream), std::move(*answer),
                                  frontend.environment().stream_writer);
                 });
}

class StreamReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public EventSink {
 public:
  StreamReactor(grpc::CallbackServerContext* context, std::unique_ptr<GenerationCall> call)
      : context_(context), call_(std::move(call)) {}

  static std::shared_ptr<StreamReactor> Make(grpc::CallbackServerContext* context,
                                             std::unique_ptr<GenerationCall> call) {
    const auto reactor = std::make_shared<StreamReactor>(context, std::move(call));
    reactor->self_ = reactor;
    return reactor;
  }

  grpc::CallbackServerContext* context() const { return context_; }
  GenerationCall* call() const { return call_.get(); }

  // Once, from any thread.
  void Begin(absl::StatusOr<std::shared_ptr<TokenStream>> stream,
             std::unique_ptr<NeighbourAnswer> answer, WorkerThread* writer) {
    context_->AddInitialMetadata(kRequestIdKey, call_->request_id);
    if (!stream.ok()) return FinishWith(stream.status());
    answer_ = std::move(answer);
    pump_ = std::make_shared<GenerationPump>(*std::move(stream), writer, call_->arrival,
                                             call_->deadline, std::move(call_->reader));
    StartSendInitialMetadata();
    // The pump's end may be the reactor's: nothing of it is touched any more.
    const std::shared_ptr<GenerationPump> pump = pump_;
    pump->Start(self_);
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
  void OnCancel() override { call_->Cancel(); }
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
  std::unique_ptr<NeighbourAnswer> answer_;  // set by Begin, as pump_; null without a stream
  std::shared_ptr<GenerationPump> pump_;
  std::shared_ptr<StreamReactor> self_;  // what keeps it alive until OnDone

  // The pump's side; while a write is in flight, gRPC's.
  std::deque<grpc::ByteBuffer> waiting_;
  grpc::ByteBuffer out_;
  bool ended_ = false;
};

class UnaryReactor final : public grpc::ServerUnaryReactor, public EventSink {
 public:
  UnaryReactor(grpc::CallbackServerContext* context, grpc::ByteBuffer* reply,
               std::unique_ptr<GenerationCall> call)
      : context_(context), reply_(reply), call_(std::move(call)) {}

  static std::shared_ptr<UnaryReactor> Make(grpc::CallbackServerContext* context,
                                            grpc::ByteBuffer* reply,
                                            std::unique_ptr<GenerationCall> call) {
    const auto reactor = std::make_shared<UnaryReactor>(context, reply, std::move(call));
    reactor->self_ = reactor;
    return reactor;
  }

  grpc::CallbackServerContext* context() const { return context_; }
  GenerationCall* call() const { return call_.get(); }

  // Once, from any thread.
  void Begin(absl::StatusOr<std::shared_ptr<TokenStream>> stream,
             std::unique_ptr<NeighbourAnswer> answer, WorkerThread* writer) {
    if (!stream.ok()) return FinishWith(stream.status());
    answer_ = std::move(answer);
    // The stream holds it weakly.
    pump_ = std::make_shared<GenerationPump>(*std::move(stream), writer, call_->arrival,
                                             call_->deadline, std::move(call_->reader));
    // The pump's end may be the reactor's: nothing of it is touched any more.
    const std::shared_ptr<GenerationPump> pump = pump_;
    pump->Start(self_);
  }

  bool Write(OutputEvent event) override {
    answer_->OnEvent(std::move(event));
    return false;
  }
  void End(const absl::Status& status, OutputFinished finished) override {
    Frontend::Finish(status, call_.get());
    if (!status.ok()) return FinishWith(status);
    *reply_ = std::move(answer_->OnFinished(std::move(finished)).front());
    Finish(grpc::Status::OK);
  }

  void OnCancel() override { call_->Cancel(); }
  void OnDone() override { const std::shared_ptr<UnaryReactor> last = std::move(self_); }

 private:
  void FinishWith(const absl::Status& status) {
    AddRetryPushback(status, context_);
    Finish(ToGrpcStatus(status, call_->request_id));
  }

  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const reply_;
  const std::unique_ptr<GenerationCall> call_;
  std::unique_ptr<NeighbourAnswer> answer_;  // set by Begin, as pump_; null without a stream
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
                                                            int request_id_field,
                                                            const ReadNeighbour& read) {
  const auto reactor = StreamReactor::Make(
      context, frontend.Begin(RequestIdOf(wire, request_id_field, *context), DeadlineOf(*context)));
  Judge(frontend, wire, read, reactor);
  return reactor.get();
}

grpc::ServerUnaryReactor* AnswerNeighbour(const Frontend& frontend,
                                          grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer& wire, int request_id_field,
                                          grpc::ByteBuffer* reply, const ReadNeighbour& read) {
  const auto reactor = UnaryReactor::Make(
      context, reply,
      frontend.Begin(RequestIdOf(wire, request_id_field, *context), DeadlineOf(*context)));
  Judge(frontend, wire, read, reactor);
  return reactor.get();
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
