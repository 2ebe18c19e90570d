// Teaches the thread sanitizer what absl::Mutex, CondVar and Notification mean. Linked into tests
// of thread sanitizer builds only.
//
// Debian's Abseil is not built with the sanitizer, which therefore sees no lock at all and reports
// a race for every guarded member. The functions here take the place of the library's (an
// executable's symbols come before those of a shared library, for the library's own callers and for
// gRPC as well): they tell the sanitizer what happens before what, and call the originals.
//
// Waiting for a Condition is done by polling: the original lets whichever thread unlocks evaluate
// the conditions of others, inside the library, where no order could be told to the sanitizer.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <string>

#include "absl/base/options.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"

#define KVASIR_QUOTE_EXPANDED(text) #text
#define KVASIR_QUOTE(text) KVASIR_QUOTE_EXPANDED(text)

namespace {

// Often enough for a test to be quick, seldom enough to leave the cores to others.
constexpr absl::Duration kPollInterval = absl::Microseconds(100);

// The library's own function; `name` is its mangled name after "absl::" and the inline namespace of
// this build.
template <typename Function>
Function* Original(const std::string& name) {
  const std::string inline_namespace = KVASIR_QUOTE(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string mangled =
      "_ZN4absl" + std::to_string(inline_namespace.size()) + inline_namespace + name;
  void* const symbol = dlsym(RTLD_NEXT, mangled.c_str());
  KVASIR_CHECK(symbol != nullptr);
  return reinterpret_cast<Function*>(symbol);
}

// Locks with `lock` and unlocks with `unlock` until the condition holds; true with the lock held.
// At the deadline the condition's value then, with the lock held as well.
template <typename Lock, typename Unlock>
bool LockWhenPolling(const absl::Condition& condition, absl::Time deadline, const Lock& lock,
                     const Unlock& unlock) {
  for (;;) {
    lock();
    if (condition.Eval()) return true;
    if (absl::Now() >= deadline) return false;
    unlock();
    absl::SleepFor(kPollInterval);
  }
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static auto* const original = Original<void(Mutex*)>("5Mutex4LockEv");
  original(this);
  __tsan_acquire(this);
}

bool Mutex::TryLock() {
  static auto* const original = Original<bool(Mutex*)>("5Mutex7TryLockEv");
  if (!original(this)) return false;
  __tsan_acquire(this);
  return true;
}

void Mutex::Unlock() {
  static auto* const original = Original<void(Mutex*)>("5Mutex6UnlockEv");
  __tsan_release(this);
  original(this);
}

void Mutex::ReaderLock() {
  static auto* const original = Original<void(Mutex*)>("5Mutex10ReaderLockEv");
  original(this);
  __tsan_acquire(this);
}

bool Mutex::ReaderTryLock() {
  static auto* const original = Original<bool(Mutex*)>("5Mutex13ReaderTryLockEv");
  if (!original(this)) return false;
  __tsan_acquire(this);
  return true;
}

void Mutex::ReaderUnlock() {
  static auto* const original = Original<void(Mutex*)>("5Mutex12ReaderUnlockEv");
  __tsan_release(this);
  original(this);
}

void Mutex::LockWhen(const Condition& condition) {
  LockWhenWithDeadline(condition, InfiniteFuture());
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  return LockWhenWithDeadline(condition, Now() + timeout);
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  return LockWhenPolling(
      condition, deadline, [this] { Lock(); }, [this] { Unlock(); });
}

void Mutex::ReaderLockWhen(const Condition& condition) {
  ReaderLockWhenWithDeadline(condition, InfiniteFuture());
}

bool Mutex::ReaderLockWhenWithTimeout(const Condition& condition, Duration timeout) {
  return ReaderLockWhenWithDeadline(condition, Now() + timeout);
}

bool Mutex::ReaderLockWhenWithDeadline(const Condition& condition, Time deadline) {
  return LockWhenPolling(
      condition, deadline, [this] { ReaderLock(); }, [this] { ReaderUnlock(); });
}

// Await comes with the lock held. Whether for reading or writing is not known here; this tree, like
// most, awaits under the writer's lock only.
void Mutex::Await(const Condition& condition) { AwaitWithDeadline(condition, InfiniteFuture()); }

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  return AwaitWithDeadline(condition, Now() + timeout);
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  if (condition.Eval()) return true;
  Unlock();
  return LockWhenWithDeadline(condition, deadline);
}

void CondVar::Wait(Mutex* mutex) {
  static auto* const original = Original<void(CondVar*, Mutex*)>("7CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  original(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  return WaitWithDeadline(mutex, Now() + timeout);
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static auto* const original =
      Original<bool(CondVar*, Mutex*, Time)>("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mutex);
  const bool timed_out = original(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

void Notification::Notify() {
  static auto* const original = Original<void(Notification*)>("12Notification6NotifyEv");
  __tsan_release(this);
  original(this);
}

void Notification::WaitForNotification() const {
  WaitForNotificationWithDeadline(InfiniteFuture());
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  return WaitForNotificationWithDeadline(Now() + timeout);
}

bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  while (!HasBeenNotified()) {
    if (Now() >= deadline) return false;
    SleepFor(kPollInterval);
  }
  __tsan_acquire(const_cast<Notification*>(this));
  return true;
}

ABSL_NAMESPACE_END
}  // namespace absl
