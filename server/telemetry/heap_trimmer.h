// Gives memory that bursts leave behind back to the machine: after ten thousand connections, or a
// flood of metadata, glibc's malloc keeps the pages of what was freed, for good. They would count
// against the process's memory limit beside the KV pools.
//
// Looks every few seconds whether the process has grown and whether malloc holds much that nobody
// uses, and only then has it trimmed, which costs some ten milliseconds of one core per GiB. Owns
// one thread; does nothing where malloc is not glibc's.
#pragma once

#include <cstdint>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace kvasir {

class HeapTrimmer {
 public:
  HeapTrimmer();
  // Waits for a trim under way.
  ~HeapTrimmer();
  HeapTrimmer(const HeapTrimmer&) = delete;
  HeapTrimmer& operator=(const HeapTrimmer&) = delete;

 private:
  void Run();

  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace kvasir
