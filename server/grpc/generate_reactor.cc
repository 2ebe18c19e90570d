#include "server/grpc/generate_reactor.h"

#include <iterator>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "runtime/engine/quota_error.h"
#include "server/frontend/request_outcome.h"
#include "server/grpc/call_metadata.h"
#include "server/grpc/event_messages.h"
#include "server/grpc/status_mapping.h"
#include "server/grpc/wire_message.h"

namespace kvasir {
namespace {

// What one message may gather: far below gRPC's 4 MiB limit, far above what a reader that keeps up
// ever sees.
constexpr size_t kMaxGatheredBytes = 64 << 10;

// Roughly the bytes of an event on the wire.
size_t WireBytes(const StreamEvent& event) {
  constexpr size_t kTokenBytes = 4;
  constexpr size_t kLogprobBytes = 12;
  const auto logprob_bytes = [](const std::vector<TokenLogprob>& tokens) {
    size_t bytes = 0;
    for (const TokenLogprob& token : tokens) {
      bytes += kLogprobBytes * (1 + token.alternatives.size());
    }
    return bytes;
  };
  if (const auto* delta = std::get_if<DeltaEvent>(&event)) {
    return delta->text.size() + kTokenBytes * delta->tokens.size() + logprob_bytes(delta->logprobs);
  }
  if (const auto* prompt = std::get_if<PromptLogprobsEvent>(&event)) {
    return logprob_bytes(prompt->tokens);
  }
  return 0;
}

template <typename T>
void Append(std::vector<T> from, std::vector<T>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

GenerateReactor::GenerateReactor(Call call) : call_(std::move(call)) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateReactor::Serve(
    Call call, std::shared_ptr<TokenStream> stream) {
  const std::shared_ptr<GenerateReactor> reactor(new GenerateReactor(std::move(call)));
  reactor->self_ = reactor;
  reactor->stream_ = std::move(stream);
  reactor->call_.context->AddInitialMetadata(kRequestIdKey, reactor->call_.request_id);
  // Before the first event may be written: the client learns at once that it is admitted.
  reactor->StartSendInitialMetadata();
  // OnDone clears this before the reactor dies.
  reactor->stream_->SetWakeup([raw = reactor.get()] { raw->Wake(); });
  return reactor.get();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateReactor::Refuse(Call call,
                                                                    const absl::Status& status) {
  KVASIR_CHECK(!status.ok());
  const std::shared_ptr<GenerateReactor> reactor(new GenerateReactor(std::move(call)));
  reactor->self_ = reactor;
  reactor->outcome_ = status.code();
  reactor->call_.context->AddInitialMetadata(kRequestIdKey, reactor->call_.request_id);
  AddRetryPushback(status, reactor->call_.context);
  reactor->Finish(ToGrpcStatus(status, reactor->call_.request_id));
  return reactor.get();
}

void GenerateReactor::OnWriteDone(bool ok) {
  const std::shared_ptr<GenerateReactor> keep_alive = shared_from_this();
  {
    absl::MutexLock lock(&mutex_);
    write_in_flight_ = false;
    client_gone_ = client_gone_ || !ok;
  }
  if (!ok) stream_->Cancel();
  Pump();
}

void GenerateReactor::OnCancel() {
  if (stream_ != nullptr) stream_->Cancel();
}

void GenerateReactor::OnDone() {
  // From here on no wake-up can begin; one that is queued on the stream writer holds its own
  // reference.
  if (stream_ != nullptr) stream_->ClearWakeup();
  call_.observer->OnGenerateDone(call_.model, call_.tenant, outcome_);
  const std::shared_ptr<GenerateReactor> last = std::move(self_);
}

void GenerateReactor::Wake() {
  if (wake_pending_.exchange(true)) return;
  const bool posted = call_.stream_writer->Post([self = shared_from_this()] {
    self->wake_pending_ = false;
    self->Pump();
  });
  KVASIR_CHECK(posted);  // its queue has no bound: see ServiceEnvironment
}

void GenerateReactor::Pump() {
  absl::MutexLock lock(&mutex_);
  if (write_in_flight_ || ended_) return;
  if (client_gone_) backlog_.clear();
  // Only when all that was taken is written: otherwise a slow reader's backlog would grow here
  // without a bound.
  if (backlog_.empty()) TakeEvents();
  if (!backlog_.empty()) {
    WriteNext();
  } else if (finished_) {
    End();
  }
}

void GenerateReactor::TakeEvents() {
  size_t gathered_bytes = 0;
  while (!finished_ && gathered_bytes < kMaxGatheredBytes) {
    std::optional<StreamEvent> event = stream_->TryPop();
    if (!event) return;
    if (auto* finished = std::get_if<FinishedEvent>(&*event)) {
      finished_ = std::move(*finished);
    } else if (!client_gone_) {
      gathered_bytes += WireBytes(*event);
      AddToBacklog(*std::move(event));
    }
  }
}

void GenerateReactor::AddToBacklog(StreamEvent event) {
  if (auto* delta = std::get_if<DeltaEvent>(&event)) {
    // The order between completions says nothing, that within one is kept. At most n deltas are
    // here.
    for (StreamEvent& waiting : backlog_) {
      auto* earlier = std::get_if<DeltaEvent>(&waiting);
      if (earlier == nullptr || earlier->index != delta->index) continue;
      earlier->text += delta->text;
      Append(std::move(delta->tokens), &earlier->tokens);
      Append(std::move(delta->logprobs), &earlier->logprobs);
      return;
    }
  }
  backlog_.push_back(std::move(event));
}

void GenerateReactor::WriteNext() {
  response_.Clear();
  StreamEvent event = std::move(backlog_.front());
  backlog_.pop_front();
  if (auto* delta = std::get_if<DeltaEvent>(&event)) {
    FillDelta(std::move(*delta), &response_);
  } else if (const auto* accepted = std::get_if<AcceptedEvent>(&event)) {
    FillAccepted(*accepted, call_.request_id, call_.model, &response_);
  } else if (const auto* logprobs = std::get_if<PromptLogprobsEvent>(&event)) {
    FillPromptLogprobs(*logprobs, &response_);
  }
  out_ = SerializeWire(response_);
  write_in_flight_ = true;
  StartWrite(&out_);
}

void GenerateReactor::End() {
  ended_ = true;
  const absl::Status status = FinalStatus();
  outcome_ = status.code();
  AddUsageTrailers(finished_->usage);
  if (status.ok() && !client_gone_) {
    response_.Clear();
    FillFinal(*finished_, &response_);
    out_ = SerializeWire(response_);
    StartWriteAndFinish(&out_, grpc::WriteOptions(), grpc::Status::OK);
    return;
  }
  if (QuotaRefusalOf(status))
    call_.observer->OnRejected(call_.model, call_.tenant, RejectionReason(status));
  AddRetryPushback(status, call_.context);
  Finish(ToGrpcStatus(status, call_.request_id));
}

absl::Duration GenerateReactor::DeadlineSlack() const {
  // The client's clock ends the call first: on the wire the time left is rounded up, by at most a
  // hundredth, and it is counted from when the request was read here, which a busy machine delays.
  constexpr absl::Duration kReadDelay = absl::Milliseconds(50);
  return (call_.deadline - started_) / 100 + kReadDelay;
}

absl::Status GenerateReactor::FinalStatus() const {
  const absl::Status& status = finished_->status;
  if (status.ok() && client_gone_) return absl::CancelledError("the client went away");
  // A call whose deadline passes is cancelled, by gRPC here or by the client, and the engine may
  // see that before it sees the deadline.
  if (absl::IsCancelled(status) && absl::Now() >= call_.deadline - DeadlineSlack()) {
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline passed after ", finished_->usage.completion_tokens,
                     " tokens; allow more time or lower max_tokens"));
  }
  return status;
}

void GenerateReactor::AddUsageTrailers(const RequestUsage& usage) const {
  const auto add = [this](const char* key, int64_t value) {
    call_.context->AddTrailingMetadata(key, absl::StrCat(value));
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
