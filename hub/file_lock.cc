#include "hub/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "hub/hub_cache.h"

namespace kvasir {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);

// Whether the locked file is still the one under the name: who had it may have removed it.
bool IsStillThere(int fd, const std::string& path) {
  struct stat locked, named;
  return fstat(fd, &locked) == 0 && stat(path.c_str(), &named) == 0 &&
         locked.st_ino == named.st_ino && locked.st_dev == named.st_dev;
}

}  // namespace

absl::StatusOr<FileLock> FileLock::Take(const std::string& path, const std::atomic<bool>* cancelled,
                                        const std::function<void()>& waiting) {
  bool told = false;
  while (true) {
    // Others of a shared cache lock it too.
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
    if (fd < 0) return CacheError(errno, absl::StrCat("open the lock ", path));
    FileLock lock(fd);
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) {
        return CacheError(errno, absl::StrCat("take the lock ", path));
      }
      if (cancelled != nullptr && cancelled->load()) return absl::CancelledError("interrupted");
      if (!std::exchange(told, true) && waiting) waiting();
      absl::SleepFor(kTick);
    }
    if (IsStillThere(fd, path)) return lock;
  }
}

FileLock::FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileLock::~FileLock() {
  if (fd_ >= 0) close(fd_);  // and so unlocks
}

}  // namespace kvasir
