// Keeps what the services report, and lets a test wait for it.
#pragma once

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/frontend/call_observer.h"

namespace kvasir::testing {

class RecordingCallObserver : public CallObserver {
 public:
  void OnGenerateStarted() override {
    absl::MutexLock lock(&mutex_);
    ++started_;
  }
  void OnGenerateDone(const std::string& model, const std::string& tenant,
                      absl::StatusCode code) override {
    absl::MutexLock lock(&mutex_);
    done_.push_back(code);
  }
  void OnRefused(const RefusedCall& call) override {
    absl::MutexLock lock(&mutex_);
    rejected_.push_back(RefusalReasonName(call.refusal.reason));
    refused_.push_back(call);
  }

  // The codes of all calls that ended, once there are `count` of them or ten seconds have passed.
  std::vector<absl::StatusCode> WaitForDone(size_t count) {
    const auto enough = [this, count]()
                            ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return done_.size() >= count; };
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(10));
    return done_;
  }
  // Whether all calls that started have ended, within ten seconds: an engine is idle before the
  // last call's end is told.
  bool AllEnd() {
    const auto none_left = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return done_.size() == started_;
    };
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&none_left), absl::Seconds(10));
  }
  size_t num_done() {
    absl::MutexLock lock(&mutex_);
    return done_.size();
  }
  std::vector<RefusedCall> refused() {
    absl::MutexLock lock(&mutex_);
    return refused_;
  }
  std::vector<std::string> rejected() {
    absl::MutexLock lock(&mutex_);
    return rejected_;
  }

 private:
  absl::Mutex mutex_;
  size_t started_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<absl::StatusCode> done_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> rejected_ ABSL_GUARDED_BY(mutex_);
  std::vector<RefusedCall> refused_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvasir::testing
