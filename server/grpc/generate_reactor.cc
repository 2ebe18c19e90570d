#include "server/grpc/generate_reactor.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/frontend/frontend.h"
#include "server/frontend/request_id.h"
#include "server/grpc/event_messages.h"
#include "server/grpc/status_mapping.h"
#include "server/grpc/wire_message.h"

namespace kvasir {

GenerateReactor::GenerateReactor(grpc::CallbackServerContext* context,
                                 std::unique_ptr<GenerationCall> call)
    : context_(context), call_(std::move(call)) {}

std::shared_ptr<GenerateReactor> GenerateReactor::Make(grpc::CallbackServerContext* context,
                                                       std::unique_ptr<GenerationCall> call) {
  const std::shared_ptr<GenerateReactor> reactor(new GenerateReactor(context, std::move(call)));
  reactor->self_ = reactor;
  return reactor;
}

void GenerateReactor::Begin(absl::StatusOr<std::shared_ptr<TokenStream>> stream,
                            WorkerThread* stream_writer) {
  context_->AddInitialMetadata(kRequestIdKey, call_->request_id);
  if (!stream.ok()) {
    AddRetryPushback(stream.status(), context_);
    return Finish(ToGrpcStatus(stream.status(), call_->request_id));
  }
  pump_ = std::make_shared<GenerationPump>(*std::move(stream), stream_writer, call_->arrival,
                                           call_->deadline, std::move(call_->reader));
  // Before the first event may be written: the client learns at once that it is admitted.
  StartSendInitialMetadata();
  // The pump's end may be the reactor's: nothing of it is touched any more.
  const std::shared_ptr<GenerationPump> pump = pump_;
  pump->Start(self_);
}

void GenerateReactor::OnWriteDone(bool ok) { pump_->OnWriteDone(ok); }

void GenerateReactor::OnCancel() { call_->Cancel(); }

void GenerateReactor::OnDone() { const std::shared_ptr<GenerateReactor> last = std::move(self_); }

bool GenerateReactor::Write(OutputEvent event) {
  response_.Clear();
  if (auto* delta = std::get_if<OutputDelta>(&event)) {
    FillDelta(std::move(*delta), call_->tokenizer.get(), &response_);
  } else if (const auto* accepted = std::get_if<AcceptedEvent>(&event)) {
    FillAccepted(*accepted, call_->request_id, call_->model, &response_);
  } else if (const auto* logprobs = std::get_if<PromptLogprobsEvent>(&event)) {
    FillPromptLogprobs(*logprobs, call_->tokenizer.get(), &response_);
  }
  out_ = SerializeWire(response_);
  StartWrite(&out_);
  return true;
}

void GenerateReactor::End(const absl::Status& status, OutputFinished finished) {
  Frontend::Finish(status, call_.get());
  AddUsageTrailers(finished.usage);
  if (status.ok()) {
    response_.Clear();
    FillFinal(finished, &response_);
    out_ = SerializeWire(response_);
    StartWriteAndFinish(&out_, grpc::WriteOptions(), grpc::Status::OK);
    return;
  }
  AddRetryPushback(status, context_);
  Finish(ToGrpcStatus(status, call_->request_id));
}

void GenerateReactor::AddUsageTrailers(const RequestUsage& usage) const {
  const auto add = [this](const char* key, int64_t value) {
    context_->AddTrailingMetadata(key, absl::StrCat(value));
  };
  add("kvasir-prompt-tokens", usage.prompt_tokens);
  add("kvasir-cached-tokens", usage.cached_tokens);
  add("kvasir-completion-tokens", usage.completion_tokens);
  add("kvasir-kv-bytes-peak", usage.kv_bytes_peak);
  add("kvasir-preemptions", usage.preemptions);
  add("kvasir-queue-ms", absl::ToInt64Milliseconds(usage.queue_time));
  add("kvasir-total-ms", absl::ToInt64Milliseconds(usage.total_time));
}

}  // namespace kvasir
