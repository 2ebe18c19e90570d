// std::mutex and a condition variable with the annotations clang's -Wthread-safety checks.
//
// Not absl::Mutex: the distribution's libabsl is built without ThreadSanitizer, which then cannot
// see that its locks order anything and reports every guarded access as a race. And its waits with
// a timeout end at a time of day: a clock that is set back by a day makes them a day longer.
#pragma once

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "base/check.h"

namespace kvasir {

class ABSL_LOCKABLE AnnotatedMutex {
 public:
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  friend class AnnotatedCondVar;
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE AnnotatedLock {
 public:
  explicit AnnotatedLock(AnnotatedMutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex)
      : mutex_(mutex) {
    mutex_->lock();
  }
  AnnotatedLock(const AnnotatedLock&) = delete;
  AnnotatedLock& operator=(const AnnotatedLock&) = delete;
  ~AnnotatedLock() ABSL_UNLOCK_FUNCTION() { mutex_->unlock(); }

 private:
  AnnotatedMutex* const mutex_;
};

class AnnotatedCondVar {
 public:
  AnnotatedCondVar() {
    pthread_condattr_t attributes;
    KVASIR_CHECK(pthread_condattr_init(&attributes) == 0);
    KVASIR_CHECK(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    KVASIR_CHECK(pthread_cond_init(&condition_, &attributes) == 0);
    pthread_condattr_destroy(&attributes);
  }
  AnnotatedCondVar(const AnnotatedCondVar&) = delete;
  AnnotatedCondVar& operator=(const AnnotatedCondVar&) = delete;
  ~AnnotatedCondVar() { pthread_cond_destroy(&condition_); }

  // May wake without cause, like any condition variable: call it in a loop on the condition.
  void Wait(AnnotatedMutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    pthread_cond_wait(&condition_, mutex->mutex_.native_handle());
  }
  // Returns after at most so long, whatever is done to the machine's clock; maybe without cause.
  void WaitFor(AnnotatedMutex* mutex, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    WaitUntil(mutex, EndOf(timeout));
  }
  // Until the condition holds, which those who change it announce, or so long. Whether it holds.
  // A condition may say that it requires the mutex: here, under another name, it is held.
  template <typename Condition>
  bool Await(AnnotatedMutex* mutex, absl::Duration timeout, const Condition& condition)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const timespec end = EndOf(timeout);
    while (!condition()) {
      if (!WaitUntil(mutex, end)) return condition();
    }
    return true;
  }
  void NotifyAll() { pthread_cond_broadcast(&condition_); }

 private:
  static timespec EndOf(absl::Duration timeout) {
    constexpr absl::Duration kForever = absl::Hours(24 * 365);
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return absl::ToTimespec(absl::DurationFromTimespec(now) +
                            std::clamp(timeout, absl::ZeroDuration(), kForever));
  }
  // False when the time has come.
  bool WaitUntil(AnnotatedMutex* mutex, const timespec& end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return pthread_cond_timedwait(&condition_, mutex->mutex_.native_handle(), &end) == 0;
  }

  pthread_cond_t condition_;
};

}  // namespace kvasir
