#include "base/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

const char* KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "something else";
}

}  // namespace

absl::StatusOr<int> OpenRegularFile(const std::string& path) {
  // O_NONBLOCK: opening a pipe would wait for its writer. It means nothing to a regular file.
  int fd;
  do {
    fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const int error = errno;
    const absl::Status status = absl::ErrnoToStatus(error, absl::StrCat("cannot open ", path));
    // NotFound is what callers pass over: not a socket (ENXIO), nor a device that went (ENODEV).
    if (!absl::IsNotFound(status) || error == ENOENT) return status;
    return absl::FailedPreconditionError(status.message());
  }
  struct stat status;
  if (fstat(fd, &status) != 0) {
    const int error = errno;
    close(fd);
    return absl::ErrnoToStatus(error, absl::StrCat("cannot open ", path));
  }
  if (S_ISREG(status.st_mode)) return fd;
  close(fd);
  return absl::FailedPreconditionError(absl::StrCat(
      "cannot read ", path, ": it is ", KindOf(status.st_mode), ", not a regular file"));
}

absl::StatusOr<std::string> ReadRegularFile(const std::string& path, size_t max_bytes) {
  KVASIR_ASSIGN_OR_RETURN(const int fd, OpenRegularFile(path));
  // Grows as it is read: the size that the file system tells may be wrong already.
  constexpr size_t kStep = size_t{64} << 10;
  std::string bytes;
  absl::Status status;
  size_t read_bytes = 0;
  while (read_bytes <= max_bytes) {
    try {
      bytes.resize(read_bytes + std::min(std::max(kStep, read_bytes), max_bytes + 1 - read_bytes));
    } catch (const std::bad_alloc&) {
      status = absl::ResourceExhaustedError(
          absl::StrCat("cannot read ", path, ": the system gives no memory for it"));
      break;
    }
    const ssize_t got = read(fd, bytes.data() + read_bytes, bytes.size() - read_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) status = absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    if (got <= 0) break;
    read_bytes += static_cast<size_t>(got);
  }
  close(fd);
  KVASIR_RETURN_IF_ERROR(status);
  if (read_bytes > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is larger than ", max_bytes, " bytes; is it the right file?"));
  }
  bytes.resize(read_bytes);
  return bytes;
}

}  // namespace kvasir
