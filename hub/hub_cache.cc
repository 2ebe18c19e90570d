#include "hub/hub_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/regular_file.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSnapshotFiles = 100'000;

// -1 when there is no such regular file.
int64_t SizeOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return -1;
  return status.st_size;
}

// Beside `path`, and no other process's.
std::string TemporaryBeside(const std::string& path) {
  return absl::StrCat(path, ".", getpid(), ".tmp");
}

absl::Status Replace(const std::string& temporary, const std::string& path) {
  if (rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const int error = errno;
  unlink(temporary.c_str());
  return CacheError(error, absl::StrCat("write ", path));
}

}  // namespace

absl::Status CacheError(int number, const std::string& what) {
  const std::string message = absl::StrCat("cannot ", what, ": ", std::strerror(number));
  switch (number) {
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(
          absl::StrCat(message,
                       "; make room, or set HF_HUB_CACHE to a folder on another disk. What is "
                       "downloaded stays, and the next pull goes on from there"));
    case EFBIG:
      return absl::ResourceExhaustedError(
          absl::StrCat(message, "; raise the limit on the size of files (ulimit -f)"));
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(
          absl::StrCat(message,
                       "; set HF_HOME or HF_HUB_CACHE to a folder that this user may write, or "
                       "HF_HUB_OFFLINE=1 to use only what is there"));
    default:
      return absl::FailedPreconditionError(
          absl::StrCat(message, "; set HF_HUB_CACHE to another folder"));
  }
}

HubCache::HubCache(std::string folder, std::string repo)
    : folder_(std::move(folder)),
      repo_(std::move(repo)),
      repo_folder_(absl::StrCat("models--", absl::StrReplaceAll(repo_, {{"/", "--"}}))) {}

std::string HubCache::SnapshotFolder(const std::string& commit) const {
  return absl::StrCat(folder_, "/", repo_folder_, "/snapshots/", commit);
}

std::string HubCache::BlobPath(const std::string& digest) const {
  return absl::StrCat(folder_, "/", repo_folder_, "/blobs/", digest);
}

std::string HubCache::PartialPath(const std::string& digest) const {
  return absl::StrCat(BlobPath(digest), ".incomplete");
}

std::string HubCache::LockPath(const std::string& digest) const {
  return absl::StrCat(folder_, "/.locks/", repo_folder_, "/", digest, ".lock");
}

absl::StatusOr<std::string> HubCache::FindCommit(const std::string& revision) const {
  if (IsCommit(revision)) return revision;
  const std::string path = absl::StrCat(folder_, "/", repo_folder_, "/refs/", revision);
  const absl::StatusOr<std::string> text = ReadRegularFile(path, 256);
  const std::string commit =
      text.ok() ? std::string(absl::StripAsciiWhitespace(*text)) : std::string();
  if (IsCommit(commit)) return commit;
  return absl::NotFoundError(absl::StrCat(repo_, "@", revision, " is not in the cache ", folder_));
}

absl::StatusOr<std::vector<RepoFile>> HubCache::ListSnapshot(const std::string& commit) const {
  const std::string root = SnapshotFolder(commit);
  std::vector<RepoFile> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end;
       it.increment(error)) {
    const std::string path = it->path().string();
    const int64_t size = SizeOf(path);
    if (size < 0) continue;  // a folder, or a link to what is not there yet
    if (files.size() == kMaxSnapshotFiles) {
      return absl::ResourceExhaustedError(
          absl::StrCat(root, " has more than ", kMaxSnapshotFiles, " files"));
    }
    files.push_back({path.substr(root.size() + 1), size, /*digest=*/""});
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat(repo_, "@", commit, " is not in the cache ", folder_, ": ", error.message()));
  }
  return files;
}

bool HubCache::HasFile(const std::string& commit, const RepoFile& file) const {
  return SizeOf(absl::StrCat(SnapshotFolder(commit), "/", file.path)) == file.size_bytes;
}

bool HubCache::HasBlob(const RepoFile& file) const {
  return SizeOf(BlobPath(file.digest)) == file.size_bytes;
}

int64_t HubCache::PartialBytes(const RepoFile& file) const {
  const int64_t size = SizeOf(PartialPath(file.digest));
  return size < 0 || size > file.size_bytes ? 0 : size;
}

absl::Status HubCache::MakeFolder(const std::string& path) const {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return CacheError(error.value(), absl::StrCat("make the folder ", path));
  return absl::OkStatus();
}

absl::Status HubCache::Prepare(const std::string& digest) const {
  for (const std::string& path : {BlobPath(digest), LockPath(digest)}) {
    KVASIR_RETURN_IF_ERROR(MakeFolder(fs::path(path).parent_path().string()));
  }
  return absl::OkStatus();
}

absl::Status HubCache::Link(const std::string& commit, const RepoFile& file) const {
  const std::string path = absl::StrCat(SnapshotFolder(commit), "/", file.path);
  KVASIR_RETURN_IF_ERROR(MakeFolder(fs::path(path).parent_path().string()));
  // Relative, so that the whole cache can be moved.
  std::string target = absl::StrCat("../../blobs/", file.digest);
  for (const char c : file.path) {
    if (c == '/') target = absl::StrCat("../", target);
  }
  const std::string temporary = TemporaryBeside(path);
  unlink(temporary.c_str());
  if (symlink(target.c_str(), temporary.c_str()) != 0) {
    return CacheError(errno, absl::StrCat("make the link ", path));
  }
  return Replace(temporary, path);
}

absl::Status HubCache::SetRevision(const std::string& revision, const std::string& commit) const {
  if (IsCommit(revision)) return absl::OkStatus();
  const absl::StatusOr<std::string> known = FindCommit(revision);
  if (known.ok() && *known == commit) return absl::OkStatus();
  const std::string path = absl::StrCat(folder_, "/", repo_folder_, "/refs/", revision);
  KVASIR_RETURN_IF_ERROR(MakeFolder(fs::path(path).parent_path().string()));
  const std::string temporary = TemporaryBeside(path);
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return CacheError(errno, absl::StrCat("write ", path));
  const ssize_t written = write(fd, commit.data(), commit.size());
  const int error = written < 0 ? errno : ENOSPC;
  close(fd);
  if (written != static_cast<ssize_t>(commit.size())) {
    unlink(temporary.c_str());
    return CacheError(error, absl::StrCat("write ", path));
  }
  return Replace(temporary, path);
}

absl::StatusOr<int64_t> HubCache::FreeBytes() const {
  // The nearest folder above that exists already.
  std::error_code error;
  fs::path path = fs::absolute(folder_, error);
  while (!fs::exists(path, error) && path.has_parent_path() && path != path.parent_path()) {
    path = path.parent_path();
  }
  struct statvfs disk;
  if (statvfs(path.c_str(), &disk) != 0) {
    return CacheError(errno, absl::StrCat("look at the disk of ", path.string()));
  }
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

}  // namespace kvasir
