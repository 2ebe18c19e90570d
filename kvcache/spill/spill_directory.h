// The directory that spill files stand in: who may use it beside whom, what it holds.
//
// One process alone holds it by an exclusive lock; several replicas that share it hold shared
// locks, so neither meets the other by mistake. The locks are flock(2)'s: the kernel takes them
// back when the process ends, however it ends.
//
// Move-only; owns the descriptor. Thread safe: it does not change. All calls do I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvasir {

class SpillDirectory {
 public:
  enum class Use { kAlone, kShared };

  // Makes the directory if it does not exist (its parent must), mode 0700. FailedPrecondition when
  // another process uses it in a way that does not go with `use`; PermissionDenied, NotFound and
  // the like when it cannot be used.
  static absl::StatusOr<SpillDirectory> Open(const std::string& path, Use use);

  // Whether Open could use the directory now, which need not be there yet; Open's errors. Leaves
  // nothing behind.
  static absl::Status Check(const std::string& path, Use use);

  SpillDirectory(SpillDirectory&& other) noexcept;
  SpillDirectory& operator=(SpillDirectory&&) = delete;
  ~SpillDirectory();

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

  // The same of a directory that is not held.
  static absl::StatusOr<std::vector<std::string>> NamesIn(const std::string& path, size_t most);

  // What it holds, at most `most` names, in no order.
  absl::StatusOr<std::vector<std::string>> Names(size_t most) const;

 private:
  // Takes the descriptor, which may be none: errno then says why.
  static absl::StatusOr<std::vector<std::string>> List(int fd, const std::string& path,
                                                       size_t most);
  SpillDirectory(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;
};

}  // namespace kvasir
