// std::mutex and std::condition_variable with the annotations clang's -Wthread-safety checks.
//
// Not absl::Mutex: the distribution's libabsl is built without ThreadSanitizer, which then cannot
// see that its locks order anything and reports every guarded access as a race.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace kvasir {

class ABSL_LOCKABLE AnnotatedMutex {
 public:
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
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
  // May wake without cause, like any condition variable: call it in a loop on the condition.
  void Wait(AnnotatedMutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { condition_.wait(*mutex); }
  // Returns after at most so long.
  void WaitFor(AnnotatedMutex* mutex, std::chrono::milliseconds timeout)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    condition_.wait_for(*mutex, timeout);
  }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable_any condition_;
};

}  // namespace kvasir
