// One Generate call's way out: takes events from a TokenStream and writes them to the client.
//
//   engine thread --Push--> TokenStream --wake--> stream writer --TryPop, StartWrite--> gRPC
//                                                     ^                                  |
//                                                     '------- OnWriteDone --------------'
//
// One write is in flight at most; meanwhile the outbox of the stream fills, and when it is full the
// engine pauses the sequence. What waited is then taken at once, and deltas of the same completion
// become one message. The stream's Finished event decides the status, so a cancelled call ends when
// the engine has let go of its KV cache.
//
// Owns itself: gRPC's OnDone releases it. Thread safe between the engine's wake-up, the stream
// writer and gRPC.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "kvasir/v1/generation.pb.h"
#include "runtime/engine/token_stream.h"
#include "server/frontend/worker_thread.h"
#include "server/grpc/rpc_observer.h"

namespace kvasir {

class GenerateReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                              public std::enable_shared_from_this<GenerateReactor> {
 public:
  // What the reactor needs to know of its call. Borrows; context lives until OnDone, the others
  // longer.
  struct Call {
    grpc::CallbackServerContext* context = nullptr;
    RpcObserver* observer = nullptr;
    WorkerThread* stream_writer = nullptr;
    std::string request_id;
    std::string model;  // "" when none that is served
    std::string tenant;
    absl::Time deadline = absl::InfiniteFuture();
  };

  // Sends initial metadata at once and then the stream's events. The result belongs to itself; hand
  // it to gRPC.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Serve(Call call,
                                                           std::shared_ptr<TokenStream> stream);
  // Ends the call with `status`, which is not OK.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Refuse(Call call, const absl::Status& status);

  // Called by gRPC.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  explicit GenerateReactor(Call call);

  // From any thread: has Pump called on the stream writer, once for any number of calls before it
  // runs.
  void Wake();
  // Starts the next write, or the end, if none is under way.
  void Pump();

  // Moves what waits in the stream to backlog_ and finished_.
  void TakeEvents() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddToBacklog(StreamEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FinalStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How long before call_.deadline a cancellation still is the deadline's doing.
  absl::Duration DeadlineSlack() const;
  void AddUsageTrailers(const RequestUsage& usage) const;

  // Constant after construction.
  const Call call_;
  const absl::Time started_ = absl::Now();
  std::shared_ptr<TokenStream> stream_;  // null after Refuse

  std::shared_ptr<GenerateReactor> self_;  // what keeps it alive until OnDone
  std::atomic<bool> wake_pending_{false};
  std::atomic<absl::StatusCode> outcome_{absl::StatusCode::kUnknown};

  absl::Mutex mutex_;
  std::deque<StreamEvent> backlog_
      ABSL_GUARDED_BY(mutex_);  // taken from the stream, not yet written
  std::optional<FinishedEvent> finished_ ABSL_GUARDED_BY(mutex_);
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool client_gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  v1::GenerateResponse response_ ABSL_GUARDED_BY(mutex_);  // kept for its memory
  grpc::ByteBuffer out_ ABSL_GUARDED_BY(mutex_);  // gRPC reads it while a write is in flight
};

}  // namespace kvasir
