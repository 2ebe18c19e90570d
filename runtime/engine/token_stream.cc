#include "runtime/engine/token_stream.h"

#include <utility>
#include <variant>

#include "base/check.h"

namespace kvasir {

TokenStream::TokenStream(size_t capacity_events, std::function<void()> wake_engine)
    : capacity_events_(capacity_events), wake_engine_(std::move(wake_engine)) {
  KVASIR_CHECK(capacity_events_ >= 1);
  KVASIR_CHECK(wake_engine_ != nullptr);
}

bool TokenStream::HasRoom(size_t events) const {
  KVASIR_CHECK(events <= capacity_events_);
  absl::MutexLock lock(&mutex_);
  if (events_.size() + events <= capacity_events_) return true;
  engine_waits_for_room_ = true;
  return false;
}

void TokenStream::Push(StreamEvent event) {
  const bool is_finished = std::holds_alternative<FinishedEvent>(event);
  {
    absl::MutexLock lock(&mutex_);
    KVASIR_CHECK(!finished_);
    if (cancelled_ && !is_finished) return;
    KVASIR_CHECK(is_finished || events_.size() < capacity_events_);
    finished_ = is_finished;
    events_.push_back(std::move(event));
  }
  // A SetWakeup between the two locks sees the event in the queue; one after this call, too.
  absl::MutexLock lock(&wakeup_mutex_);
  RunWakeup();
}

void TokenStream::CountCancel(std::shared_ptr<std::atomic<int64_t>> cancels) {
  absl::MutexLock lock(&mutex_);
  KVASIR_CHECK(cancels_ == nullptr);
  cancels_ = std::move(cancels);
  if (cancelled_) cancels_->fetch_add(1, std::memory_order_release);
}

std::optional<StreamEvent> TokenStream::TryPop() {
  std::optional<StreamEvent> event;
  bool wake_engine = false;
  {
    absl::MutexLock lock(&mutex_);
    if (!HasEvents()) return std::nullopt;
    event = std::move(events_.front());
    events_.pop_front();
    wake_engine = TakeEngineWake();
  }
  if (wake_engine) wake_engine_();
  return event;
}

void TokenStream::SetWakeup(std::function<void()> on_event) {
  KVASIR_CHECK(on_event != nullptr);
  // The call may give up the caller's reference to this stream. Null, and no need, when the stream
  // is not owned by a shared_ptr. Declared before the lock, so that it goes after it.
  const std::shared_ptr<TokenStream> keep_alive = weak_from_this().lock();
  absl::MutexLock lock(&wakeup_mutex_);
  KVASIR_CHECK(on_event_ == nullptr);
  on_event_ = std::move(on_event);
  bool has_events = false;
  {
    absl::MutexLock events_lock(&mutex_);
    has_events = HasEvents();
  }
  if (has_events) RunWakeup();
}

void TokenStream::ClearWakeup() {
  if (wakeup_thread_.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
    wakeup_mutex_.AssertHeld();  // by this thread, further up the stack
    clear_after_call_ = true;
    return;
  }
  absl::MutexLock lock(&wakeup_mutex_);
  on_event_ = nullptr;
}

void TokenStream::Cancel() {
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return;
    cancelled_ = true;
    if (cancels_ != nullptr) cancels_->fetch_add(1, std::memory_order_release);
    while (!events_.empty() && !std::holds_alternative<FinishedEvent>(events_.front())) {
      events_.pop_front();
    }
    engine_waits_for_room_ = false;
    if (finished_) return;  // the engine is done with this stream
  }
  wake_engine_();
}

bool TokenStream::TakeEngineWake() {
  if (!engine_waits_for_room_ || events_.size() > capacity_events_ / 2) return false;
  engine_waits_for_room_ = false;
  return true;
}

void TokenStream::RunWakeup() {
  if (on_event_ == nullptr) return;
  wakeup_thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  on_event_();
  wakeup_thread_.store(std::thread::id(), std::memory_order_relaxed);
  if (clear_after_call_) {
    clear_after_call_ = false;
    on_event_ = nullptr;
  }
}

}  // namespace kvasir
