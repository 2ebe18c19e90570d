#include "server/grpc/neighbours/kserve_stream.h"

#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "server/frontend/generation_pump.h"
#include "server/frontend/request_errors.h"
#include "server/grpc/call_context.h"
#include "server/grpc/neighbours/kserve_messages.h"
#include "server/grpc/neighbours/neighbour_call.h"

namespace kvasir {
namespace {

namespace pb = ::inference;

//   Read --OnReadDone--> pump --Write, OnWriteDone-- ... --End--> last answer --OnWriteDone--> Read
class Stream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                     public EventSink,
                     public std::enable_shared_from_this<Stream> {
 public:
  Stream(const Frontend& frontend, grpc::CallbackServerContext* context)
      : frontend_(frontend), context_(context) {}

  void Start() {
    self_ = shared_from_this();
    StartSendInitialMetadata();
    StartRead(&in_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    // The stream's deadline is that of every request on it.
    const std::string request_id =
        RequestIdOf(in_, pb::ModelInferRequest::kIdFieldNumber, *context_);
    call_ = frontend_.Begin(request_id, DeadlineOf(*context_));
    request_ = KserveRequest();
    {
      absl::MutexLock lock(&mutex_);
      current_ = call_;
      if (cancelled_) call_->Cancel();
    }
    frontend_.Judge(
        CallCredentials(*context_), in_.Length(), call_.get(),
        [this](const Caller& caller, const TextJob& job) { return Read(caller, job); },
        [self = shared_from_this()](absl::StatusOr<std::shared_ptr<TokenStream>> stream) {
          self->Begin(std::move(stream));
        });
  }

  bool Write(OutputEvent event) override {
    auto* delta = std::get_if<OutputDelta>(&event);
    if (delta == nullptr) return false;
    text_ += delta->text;
    if (!request_.stream || text_.empty()) return false;
    Send(KserveAnswer(request_, std::exchange(text_, {}), /*is_last=*/false));
    return true;
  }

  void End(const absl::Status& status, OutputFinished) override {
    Frontend::Finish(status, call_.get());
    // The sink's writes are over: the next OnWriteDone is this stream's own.
    const std::shared_ptr<GenerationPump> pump = std::move(pump_);
    if (!status.ok()) return Fail(status);
    Send(KserveAnswer(request_, std::exchange(text_, {}), /*is_last=*/true));
  }

  void OnWriteDone(bool ok) override {
    if (pump_ != nullptr) {
      const std::shared_ptr<GenerationPump> pump = pump_;
      return pump->OnWriteDone(ok);
    }
    {
      absl::MutexLock lock(&mutex_);
      current_ = nullptr;
    }
    call_ = nullptr;
    if (!ok) return Finish(grpc::Status::CANCELLED);
    StartRead(&in_);
  }

  void OnCancel() override {
    std::shared_ptr<GenerationCall> current;
    {
      absl::MutexLock lock(&mutex_);
      cancelled_ = true;
      current = current_;
    }
    if (current != nullptr) current->Cancel();
  }
  void OnDone() override { const std::shared_ptr<Stream> last = std::move(self_); }

 private:
  absl::StatusOr<std::shared_ptr<TokenStream>> Read(const Caller& caller, const TextJob& job) {
    pb::ModelInferRequest wanted;
    KVASIR_RETURN_IF_ERROR(ParseKnown(in_, &wanted));
    request_.id = wanted.id();  // for the error, too
    request_.model = wanted.model_name();
    KVASIR_ASSIGN_OR_RETURN(request_, ReadKserveRequest(wanted));
    return frontend_.Start(std::move(request_.message), caller, "", job, call_.get());
  }

  void Begin(absl::StatusOr<std::shared_ptr<TokenStream>> stream) {
    if (!stream.ok()) return Fail(stream.status());
    text_ = std::move(request_.echo);
    pump_ =
        std::make_shared<GenerationPump>(*std::move(stream), frontend_.environment().stream_writer,
                                         call_->arrival, call_->deadline, std::move(call_->reader));
    const std::shared_ptr<GenerationPump> pump = pump_;
    pump->Start(shared_from_this());
  }

  void Send(pb::ModelInferResponse answer) {
    pb::ModelStreamInferResponse message;
    *message.mutable_infer_response() = std::move(answer);
    out_ = SerializeWire(message);
    StartWrite(&out_);
  }

  void Fail(const absl::Status& status) {
    pb::ModelStreamInferResponse message;
    message.set_error_message(MessageForClients(status, call_->request_id));
    pb::ModelInferResponse* const answer = message.mutable_infer_response();
    answer->set_id(request_.id);
    answer->set_model_name(request_.model);
    (*answer->mutable_parameters())["triton_final_response"].set_bool_param(true);
    out_ = SerializeWire(message);
    StartWrite(&out_);
  }

  const Frontend& frontend_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<Stream> self_;  // what keeps it alive until OnDone

  // Of the request being answered; of one thread at a time.
  std::shared_ptr<GenerationCall> call_;
  KserveRequest request_;
  std::string text_;  // not sent yet
  grpc::ByteBuffer in_, out_;
  std::shared_ptr<GenerationPump> pump_;  // while it writes

  absl::Mutex mutex_;
  std::shared_ptr<GenerationCall> current_ ABSL_GUARDED_BY(mutex_);  // call_, for OnCancel
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServeKserveStream(
    const Frontend& frontend, grpc::CallbackServerContext* context) {
  const auto stream = std::make_shared<Stream>(frontend, context);
  stream->Start();
  return stream.get();
}

}  // namespace kvasir
