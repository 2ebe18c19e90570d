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
#include "base/annotated_mutex.h"

namespace kvasir {

// At once, around what frees much by intent. Thread safe; one at a time.
//
// malloc_trim leaves the free end of every arena but the first alone, and malloc itself cuts it
// only beyond a threshold that grows to 64 MiB by itself: a threshold that is low while the freeing
// goes on has it cut (measured, 60 times a model of 7 M parameters loaded and unloaded: 33 MiB stay
// otherwise).
class FreeingScope {
 public:
  FreeingScope();
  ~FreeingScope();
  FreeingScope(const FreeingScope&) = delete;
  FreeingScope& operator=(const FreeingScope&) = delete;
};

class HeapTrimmer {
 public:
  HeapTrimmer();
  // Waits for a trim under way.
  ~HeapTrimmer();
  HeapTrimmer(const HeapTrimmer&) = delete;
  HeapTrimmer& operator=(const HeapTrimmer&) = delete;

 private:
  void Run();

  AnnotatedMutex mutex_;
  AnnotatedCondVar stop_changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace kvasir
