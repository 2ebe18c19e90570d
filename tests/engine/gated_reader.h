// A disk with a gate, for KvSpillConfig::read and PrefixSpillConfig::read. Header only.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "base/annotated_mutex.h"
#include "kvcache/spill/kv_spill_file.h"

namespace kvasir::testing {

// pread, but it waits while the gate is closed and fails with `error` if that is not 0.
class GatedReader {
 public:
  SpillRead Function() {
    return [this](int fd, void* data, size_t size_bytes, off_t offset_bytes) -> ssize_t {
      {
        AnnotatedLock lock(&mutex_);
        ++waiting_;
        changed_.NotifyAll();
        while (closed_) changed_.Wait(&mutex_);
        --waiting_;
      }
      if (error != 0) {
        errno = error;
        return -1;
      }
      return pread(fd, data, size_bytes, offset_bytes);
    };
  }
  void Close() {
    AnnotatedLock lock(&mutex_);
    closed_ = true;
  }
  void Open() {
    AnnotatedLock lock(&mutex_);
    closed_ = false;
    changed_.NotifyAll();
  }
  // Returns once a read stands at the closed gate.
  void AwaitReader() {
    AnnotatedLock lock(&mutex_);
    while (waiting_ == 0) changed_.Wait(&mutex_);
  }

  std::atomic<int> error{0};

 private:
  AnnotatedMutex mutex_;
  AnnotatedCondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvasir::testing
