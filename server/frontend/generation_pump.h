// Moves one generation's events from its TokenStream into a front end's sink.
//
//   engine thread --Push--> TokenStream --wake--> stream writer --TryPop, Write--> sink
//                                                     ^                             |
//                                                     '------- OnWriteDone ---------'
//
// One write is in flight at most; meanwhile the outbox of the stream fills, and when it is full the
// engine pauses the sequence. What waited is then taken at once, and deltas of the same completion
// become one. A ResponseReader tells reasoning and tool calls from the text on the way. The
// stream's Finished event decides the end, so a cancelled call ends when the engine has let go of
// its KV cache.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runtime/engine/token_stream.h"
#include "server/frontend/response/response_reader.h"
#include "server/frontend/worker_thread.h"

namespace kvasir {

// What a client gets of a delta: the engine's, with reasoning and calls apart from its text when
// the answer is read.
struct OutputDelta : DeltaEvent {
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;
};

// The engine's end of a generation, with what the reader of the answer counted.
struct OutputFinished : FinishedEvent {
  int32_t reasoning_tokens = 0;  // of usage.completion_tokens; 0 when the answer is not read
};

using OutputEvent = std::variant<AcceptedEvent, PromptLogprobsEvent, OutputDelta>;

// Where one generation's events go: the front end's side. Called from the stream writer's thread or
// from that of OnWriteDone, never twice at once. Neither method may call the pump back before it
// has returned.
class EventSink {
 public:
  virtual ~EventSink() = default;
  // True: a write is in flight, and exactly one
  // GenerationPump::OnWriteDone must follow; false: there was nothing to send.
  virtual bool Write(OutputEvent event) = 0;
  // The last call; no OnWriteDone follows. `status`: what the client shall be told;
  // OK only if it is still there. `finished.status` is what the engine said.
  virtual void End(const absl::Status& status, OutputFinished finished) = 0;
};

// Thread safe. Holds the sink until End has returned.
class GenerationPump : public std::enable_shared_from_this<GenerationPump> {
 public:
  // `stream_writer` outlives the pump and its queue has no bound. `arrival` and `deadline`: the
  // call's. `reader`: null when the text goes out as it is.
  GenerationPump(std::shared_ptr<TokenStream> stream, WorkerThread* stream_writer,
                 absl::Time arrival, absl::Time deadline, std::unique_ptr<ResponseReader> reader);

  // Begins; once.
  void Start(std::shared_ptr<EventSink> sink);

  // The write under way ended; not `ok`: the client is gone, and so the generation is cancelled.
  void OnWriteDone(bool ok);

  // The client wants no more, or the transport has lost it. End comes when the engine let go.
  void Cancel() { stream_->Cancel(); }

 private:
  // From any thread: has Pump called on the stream writer, once for any number of calls before it
  // runs.
  void Wake();
  // Starts the next write, or the end, if none is under way.
  void Pump();

  // Moves what waits in the stream to backlog_ and finished_.
  void TakeEvents() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddToBacklog(OutputEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The engine's event as the client gets it; not Finished.
  OutputEvent Read(StreamEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the reader held back, and what it found in the whole.
  void FinishReading() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FinalStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<TokenStream> stream_;
  WorkerThread* const stream_writer_;
  const absl::Time arrival_;
  const absl::Time deadline_;
  std::atomic<bool> wake_pending_{false};

  absl::Mutex mutex_;
  std::shared_ptr<EventSink> sink_ ABSL_GUARDED_BY(mutex_);  // null before Start and after End
  const std::unique_ptr<ResponseReader> reader_ ABSL_PT_GUARDED_BY(mutex_);
  std::deque<OutputEvent> backlog_
      ABSL_GUARDED_BY(mutex_);  // taken from the stream, not yet written
  std::optional<FinishedEvent> finished_ ABSL_GUARDED_BY(mutex_);
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool client_gone_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvasir
