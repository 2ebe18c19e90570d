// The bounded outbox between the engine thread (producer) and one RPC (consumer).
//
// The producer asks HasRoom() before it schedules the sequence and pauses it when there is none: a
// slow reader slows only itself. Finished always fits. Shared by both sides through shared_ptr; all
// methods are thread safe and none blocks.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runtime/engine/request.h"

namespace kvasir {

class TokenStream {
 public:
  // wake_engine is called, outside the lock, when the engine should look at this stream again: room
  // after there was none, or cancellation. It must be safe to call as long as the stream lives.
  TokenStream(size_t capacity_events, std::function<void()> wake_engine);

  // --- producer: the engine thread ---

  // Room for `events` more, the last one of them never counted twice against Finished.
  bool HasRoom(size_t events) const;
  // Appends; wakes the reader. Beyond capacity only Finished is accepted (a bug otherwise). After
  // Finished nothing more may be pushed. Events of a cancelled stream are dropped, Finished is
  // kept.
  void Push(StreamEvent event);
  bool cancelled() const;

  // --- consumer: one RPC ---

  // The next event, or nothing when none is waiting now.
  std::optional<StreamEvent> TryPop();
  // `on_event` is called from the producer's thread, outside the lock, after every Push; at once if
  // events wait already. It must be short and may call TryPop. Set once; ClearWakeup() waits until
  // no call is under way.
  void SetWakeup(std::function<void()> on_event);
  void ClearWakeup();
  // Blocks until an event is there; for tests and in-process callers without a wakeup.
  StreamEvent WaitPop();
  // The client went away: the engine frees the request within one step and pushes
  // Finished(Cancelled).
  void Cancel();

 private:
  const size_t capacity_events_;
  const std::function<void()> wake_engine_;

  mutable absl::Mutex mutex_;
  std::deque<StreamEvent> events_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool engine_waits_for_room_ ABSL_GUARDED_BY(mutex_) = false;

  // Held while the wakeup runs, so that ClearWakeup can wait for it. Order: wakeup_mutex_ before
  // mutex_.
  absl::Mutex wakeup_mutex_;
  std::function<void()> on_event_ ABSL_GUARDED_BY(wakeup_mutex_);
};

}  // namespace kvasir
