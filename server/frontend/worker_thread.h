// One thread that runs posted tasks in order: where RPC code puts work that must not run on the
// thread that causes it.
//
// The daemon has two. The stream writer sends what engines produced, so that an engine thread never
// serialises or touches a socket. The query worker waits for engines (at most a step each time), so
// that gRPC's polling threads never do.
//
// Thread safe. Tasks must not throw. The destructor runs every task that was accepted, then joins;
// nothing may be posted any more by then.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvasir {

class WorkerThread {
 public:
  // Post refuses while `max_pending` tasks wait. `name` is what debuggers show, at most 15
  // characters.
  WorkerThread(const std::string& name, size_t max_pending);
  ~WorkerThread();
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;

  // False when the queue is full; the task is then dropped unrun. Never blocks.
  [[nodiscard]] bool Post(std::function<void()> task);

 private:
  void Run();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !tasks_.empty();
  }

  const size_t max_pending_;

  absl::Mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace kvasir
