// A lock between processes, held while it lives: flock on a file, as Hugging Face's tools take it.
// The file stays. Move-only; one thread at a time.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace kvasir {

class FileLock {
 public:
  // Waits for whoever has it; `waiting` is called once when that begins. Cancelled while waiting;
  // else the errors of CacheError.
  static absl::StatusOr<FileLock> Take(const std::string& path, const std::atomic<bool>* cancelled,
                                       const std::function<void()>& waiting);

  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock();

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace kvasir
