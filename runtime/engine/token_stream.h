// The bounded outbox between the engine thread (producer) and one RPC (consumer).
//
// The producer asks HasRoom() before it schedules the sequence and pauses it when there is none: a
// slow reader slows only itself. Finished always fits. Shared by both sides through shared_ptr; all
// methods are thread safe and none blocks, except ClearWakeup while a wakeup runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runtime/engine/request.h"

namespace kvasir {

class TokenStream : public std::enable_shared_from_this<TokenStream> {
 public:
  // wake_engine is called, outside the lock, when the engine should look at this stream again: room
  // after there was none, or cancellation. It must be safe to call as long as the stream lives.
  TokenStream(size_t capacity_events, std::function<void()> wake_engine);

  // --- producer: the engine thread ---

  // Room for `events` more, besides Finished, which needs none; always for a cancelled stream,
  // which keeps nothing. `events` <= capacity, or the answer could never become yes. After a no,
  // wake_engine is called once half of the capacity is free, not at the first free place: engine
  // and reader would else wake each other for every single event.
  bool HasRoom(size_t events) const;
  // Appends; wakes the reader. Beyond capacity only Finished is accepted (a bug otherwise). After
  // Finished nothing more may be pushed. Events of a cancelled stream are dropped, Finished is
  // kept.
  void Push(StreamEvent event);
  // From now on Cancel counts here; a stream that is cancelled already does so at once. The engine
  // asks whose it is only when the count has changed. Set once.
  void CountCancel(std::shared_ptr<std::atomic<int64_t>> cancels);
  // Takes no lock.
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

  // --- consumer: one RPC ---

  // The next event, or nothing when none is waiting now.
  std::optional<StreamEvent> TryPop();
  // `on_event` is called from the producer's thread, outside the lock, after every Push; at once,
  // in the caller's thread, if events wait already. Calls never overlap. It must be short; it may
  // call TryPop, Cancel and ClearWakeup. Set once. Neither SetWakeup nor ClearWakeup may be called
  // with a lock held that on_event takes.
  void SetWakeup(std::function<void()> on_event);
  // After this no call begins, and none is under way: what on_event refers to may be destroyed.
  // From inside on_event it returns at once instead of waiting for itself; then on_event must touch
  // nothing that its caller destroys afterwards. Harmless when there is no wakeup.
  void ClearWakeup();
  // The client went away: the engine frees the request within one step and pushes
  // Finished(Cancelled). Events that still wait are dropped, except Finished.
  void Cancel();

 private:
  bool HasEvents() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !events_.empty(); }
  // Whether the engine waits for room and there is enough now; if so, forgets that it waits.
  bool TakeEngineWake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunWakeup() ABSL_EXCLUSIVE_LOCKS_REQUIRED(wakeup_mutex_);

  const size_t capacity_events_;
  const std::function<void()> wake_engine_;

  mutable absl::Mutex mutex_;
  std::deque<StreamEvent> events_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> cancelled_{false};  // changes under mutex_
  std::shared_ptr<std::atomic<int64_t>> cancels_ ABSL_GUARDED_BY(mutex_);
  mutable bool engine_waits_for_room_ ABSL_GUARDED_BY(mutex_) = false;  // set by HasRoom's no

  // Held while the wakeup runs, so that ClearWakeup can wait for it. Order: wakeup_mutex_ before
  // mutex_.
  absl::Mutex wakeup_mutex_;
  std::function<void()> on_event_ ABSL_GUARDED_BY(wakeup_mutex_);
  // ClearWakeup came from inside the call: on_event_ goes when the call has returned.
  bool clear_after_call_ ABSL_GUARDED_BY(wakeup_mutex_) = false;
  // The thread that is inside on_event_; nobody's id otherwise. A thread compares it only with its
  // own id, so it needs no lock: no other thread can write that value.
  std::atomic<std::thread::id> wakeup_thread_{};
};

}  // namespace kvasir
