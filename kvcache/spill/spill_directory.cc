#include "kvcache/spill/spill_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

// Whether a file can be made in it, which rights do not tell: root has them all, and there are file
// systems that make none. One that is full may have room later.
absl::Status TryFile(int directory_fd, const std::string& path) {
  // Without a name, so that nothing can stay behind; not every file system has that.
  int fd = openat(directory_fd, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT)) {
    const std::string name = absl::StrCat("check-", getpid());
    fd = openat(directory_fd, name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) unlinkat(directory_fd, name.c_str(), 0);
  }
  if (fd < 0 && errno != ENOSPC && errno != EDQUOT)
    return absl::ErrnoToStatus(errno, absl::StrCat("spill: cannot write to directory ", path));
  if (fd >= 0) close(fd);
  return absl::OkStatus();
}

}  // namespace

absl::Status SpillDirectory::Check(const std::string& path, Use use) {
  if (access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
    const std::string parent = std::filesystem::absolute(path).parent_path().string();
    if (access(parent.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(errno,
                               absl::StrCat("spill: cannot make directory ", path, " in ", parent));
  }
  return Open(path, use).status();
}

absl::StatusOr<SpillDirectory> SpillDirectory::Open(const std::string& path, Use use) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("spill: cannot make directory ", path));
  }
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("spill: cannot open directory ", path));
  SpillDirectory directory(path, fd);
  if (flock(fd, (use == Use::kAlone ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK)
      return absl::ErrnoToStatus(errno, absl::StrCat("spill: cannot lock directory ", path));
    return absl::FailedPreconditionError(absl::StrCat(
        "spill: directory ", path, " is in use by another process or model",
        use == Use::kAlone
            ? "; give each model a directory of its own"
            : " that does not share it; set sessions.share_spill_directory there too"));
  }
  KVASIR_RETURN_IF_ERROR(TryFile(fd, path));
  return directory;
}

SpillDirectory::SpillDirectory(SpillDirectory&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

SpillDirectory::~SpillDirectory() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::vector<std::string>> SpillDirectory::Names(size_t most) const {
  // readdir needs a descriptor of its own: it moves the offset, and closedir closes it.
  return List(openat(fd_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), path_, most);
}

absl::StatusOr<std::vector<std::string>> SpillDirectory::NamesIn(const std::string& path,
                                                                 size_t most) {
  return List(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), path, most);
}

absl::StatusOr<std::vector<std::string>> SpillDirectory::List(int fd, const std::string& path,
                                                              size_t most) {
  DIR* const open = fd < 0 ? nullptr : fdopendir(fd);
  if (open == nullptr) {
    const absl::Status status =
        absl::ErrnoToStatus(errno, absl::StrCat("spill: directory ", path, " cannot be listed"));
    if (fd >= 0) close(fd);
    return status;
  }
  std::vector<std::string> names;
  errno = 0;
  while (names.size() < most) {
    const dirent* const entry = readdir(open);
    if (entry == nullptr) break;
    names.emplace_back(entry->d_name);
  }
  const int error = errno;
  closedir(open);
  if (error != 0 && names.size() < most) {
    return absl::ErrnoToStatus(error, absl::StrCat("spill: directory ", path, " cannot be listed"));
  }
  return names;
}

}  // namespace kvasir
