// Turns Ctrl-C into a callback while it lives: a stream can be cancelled cleanly instead of the
// process dying with it.
//
// Construct in the main thread before any other thread starts (gRPC starts its own at the first
// call), because SIGINT is blocked in the constructing thread and its children inherit that. The
// callback runs in the watcher's own thread and must be short. At most one watcher at a time.
#pragma once

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvasir {

class InterruptWatcher {
 public:
  InterruptWatcher();
  ~InterruptWatcher();
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;

  // What the next Ctrl-C does, once; empty = end the process with exit code 130. Waits for an
  // action that is running, so what it refers to may be destroyed afterwards. Not to be called from
  // an action.
  void SetAction(std::function<void()> action) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Watch() ABSL_LOCKS_EXCLUDED(mutex_);

  const int stop_event_fd_;
  const int signal_fd_;
  absl::Mutex mutex_;
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace kvasir
