#include "server/frontend/generation_pump.h"

#include <cstddef>
#include <iterator>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "server/frontend/call_deadline.h"

namespace kvasir {
namespace {

// What one event may gather: far below gRPC's 4 MiB limit of a message, far above what a reader
// that keeps up ever sees.
constexpr size_t kMaxGatheredBytes = 64 << 10;

// Roughly the bytes of an event on the wire.
size_t WireBytes(const OutputEvent& event) {
  constexpr size_t kTokenBytes = 4;
  constexpr size_t kLogprobBytes = 12;
  const auto logprob_bytes = [](const std::vector<TokenLogprob>& tokens) {
    size_t bytes = 0;
    for (const TokenLogprob& token : tokens) {
      bytes += kLogprobBytes * (1 + token.alternatives.size());
    }
    return bytes;
  };
  if (const auto* delta = std::get_if<OutputDelta>(&event)) {
    size_t bytes = delta->text.size() + delta->reasoning.size() +
                   kTokenBytes * delta->tokens.size() + logprob_bytes(delta->logprobs);
    for (const ToolCallDelta& call : delta->tool_calls) {
      bytes += call.id.size() + call.name.size() + call.arguments.size();
    }
    return bytes;
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

GenerationPump::GenerationPump(std::shared_ptr<TokenStream> stream, WorkerThread* stream_writer,
                               absl::Time arrival, absl::Time deadline,
                               std::unique_ptr<ResponseReader> reader)
    : stream_(std::move(stream)),
      stream_writer_(stream_writer),
      arrival_(arrival),
      deadline_(deadline),
      reader_(std::move(reader)) {}

void GenerationPump::Start(std::shared_ptr<EventSink> sink) {
  {
    absl::MutexLock lock(&mutex_);
    sink_ = std::move(sink);
  }
  // The stream may outlive the pump: the engine holds it too.
  stream_->SetWakeup([weak = weak_from_this()] {
    if (const std::shared_ptr<GenerationPump> self = weak.lock()) self->Wake();
  });
}

void GenerationPump::OnWriteDone(bool ok) {
  const std::shared_ptr<GenerationPump> keep_alive = shared_from_this();
  {
    absl::MutexLock lock(&mutex_);
    write_in_flight_ = false;
    client_gone_ = client_gone_ || !ok;
  }
  if (!ok) stream_->Cancel();
  Pump();
}

void GenerationPump::Wake() {
  if (wake_pending_.exchange(true)) return;
  const bool posted = stream_writer_->Post([self = shared_from_this()] {
    self->wake_pending_ = false;
    self->Pump();
  });
  KVASIR_CHECK(posted);  // its queue has no bound: see ServiceEnvironment
}

void GenerationPump::Pump() {
  std::shared_ptr<EventSink> ended;  // dies after the lock is released
  absl::MutexLock lock(&mutex_);
  if (write_in_flight_ || sink_ == nullptr) return;
  while (true) {
    if (client_gone_) backlog_.clear();
    // Only when all that was taken is written: otherwise a slow reader's backlog would grow here
    // without a bound.
    if (backlog_.empty()) TakeEvents();
    if (backlog_.empty()) break;
    OutputEvent event = std::move(backlog_.front());
    backlog_.pop_front();
    write_in_flight_ = true;
    if (sink_->Write(std::move(event))) return;
    write_in_flight_ = false;
  }
  if (!finished_) return;
  const absl::Status status = FinalStatus();
  ended = std::move(sink_);
  sink_ = nullptr;
  const int32_t reasoning_tokens = reader_ == nullptr ? 0 : reader_->reasoning_tokens();
  ended->End(status, OutputFinished{*std::move(finished_), reasoning_tokens});
}

void GenerationPump::TakeEvents() {
  size_t gathered_bytes = 0;
  while (!finished_ && gathered_bytes < kMaxGatheredBytes) {
    std::optional<StreamEvent> event = stream_->TryPop();
    if (!event) return;
    if (auto* finished = std::get_if<FinishedEvent>(&*event)) {
      finished_ = std::move(*finished);
      FinishReading();
    } else if (!client_gone_) {
      OutputEvent output = Read(*std::move(event));
      gathered_bytes += WireBytes(output);
      AddToBacklog(std::move(output));
    }
  }
}

OutputEvent GenerationPump::Read(StreamEvent event) {
  if (auto* accepted = std::get_if<AcceptedEvent>(&event)) return *accepted;
  if (auto* logprobs = std::get_if<PromptLogprobsEvent>(&event)) return std::move(*logprobs);
  auto* const delta = std::get_if<DeltaEvent>(&event);
  KVASIR_CHECK(delta != nullptr);
  OutputDelta output = {std::move(*delta), {}, {}};
  if (reader_ != nullptr) {
    ResponseDelta read =
        reader_->Feed(output.index, output.text, static_cast<int32_t>(output.tokens.size()));
    output.text = std::move(read.content);
    output.reasoning = std::move(read.reasoning);
    output.tool_calls = std::move(read.calls);
  }
  return output;
}

void GenerationPump::FinishReading() {
  if (reader_ == nullptr || client_gone_ || !finished_->status.ok()) return;
  for (CompletionResult& result : finished_->completions) {
    ResponseDelta read = reader_->Finish(result.index);
    const bool is_turns_end =
        result.reason == FinishReason::kEos || result.reason == FinishReason::kGrammar;
    if (is_turns_end && reader_->HasCalls(result.index)) {
      result.reason = FinishReason::kToolCalls;
    }
    if (read.empty()) continue;
    OutputDelta rest;
    rest.index = result.index;
    rest.text = std::move(read.content);
    rest.reasoning = std::move(read.reasoning);
    rest.tool_calls = std::move(read.calls);
    AddToBacklog(std::move(rest));
  }
}

void GenerationPump::AddToBacklog(OutputEvent event) {
  if (auto* delta = std::get_if<OutputDelta>(&event)) {
    // The order between completions says nothing, that within one is kept. At most n deltas are
    // here.
    for (OutputEvent& waiting : backlog_) {
      auto* earlier = std::get_if<OutputDelta>(&waiting);
      if (earlier == nullptr || earlier->index != delta->index) continue;
      earlier->text += delta->text;
      earlier->reasoning += delta->reasoning;
      Append(std::move(delta->tool_calls), &earlier->tool_calls);
      Append(std::move(delta->tokens), &earlier->tokens);
      Append(std::move(delta->logprobs), &earlier->logprobs);
      return;
    }
  }
  backlog_.push_back(std::move(event));
}

absl::Status GenerationPump::FinalStatus() const {
  const absl::Status& status = finished_->status;
  if (status.ok() && client_gone_) return absl::CancelledError("the client went away");
  // A call whose deadline passes is cancelled, by the transport here or by the client, and the
  // engine may see that before it sees the deadline.
  if (absl::IsCancelled(status) && DeadlineIsOver(arrival_, deadline_)) {
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline passed after ", finished_->usage.completion_tokens,
                     " tokens; allow more time or lower max_tokens"));
  }
  return status;
}

}  // namespace kvasir
