#include "hub/blob_download.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "hub/file_digest.h"
#include "hub/file_lock.h"

namespace kvasir {
namespace {

// Who gives less than this per try is not getting anywhere.
constexpr int64_t kProgressBytes = 1 << 20;

absl::Status WriteAt(int fd, int64_t offset, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return CacheError(errno, absl::StrCat("write ", path));
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BlobDownload::Run(const RepoFile& file) const {
  if (cache->HasBlob(file)) return absl::OkStatus();
  KVASIR_RETURN_IF_ERROR(cache->Prepare(file.digest));
  const auto waiting = [&] {
    if (note) note(absl::StrCat("waiting for another process that downloads ", file.path));
  };
  KVASIR_ASSIGN_OR_RETURN(const FileLock lock,
                          FileLock::Take(cache->LockPath(file.digest), cancelled, waiting));
  if (cache->HasBlob(file)) return absl::OkStatus();  // the other one's

  const std::string partial = cache->PartialPath(file.digest);
  for (bool second_try = false;; second_try = true) {
    const bool resumed = cache->PartialBytes(file) > 0;
    KVASIR_RETURN_IF_ERROR(Fetch(file));
    const absl::Status checked = CheckDigest(partial, file.digest, cancelled);
    if (checked.ok()) break;
    if (!absl::IsDataLoss(checked)) return checked;
    std::remove(partial.c_str());
    const std::string message =
        absl::StrCat(file.path, " was downloaded wrong and is deleted: ", checked.message());
    // What was there before may have been the wrong part.
    if (!resumed || second_try) return absl::DataLossError(message);
    if (note) note(absl::StrCat(message, "; once more from its beginning"));
  }
  if (std::rename(partial.c_str(), cache->BlobPath(file.digest).c_str()) != 0) {
    return CacheError(errno, absl::StrCat("write ", cache->BlobPath(file.digest)));
  }
  return absl::OkStatus();
}

// All of the file into its partial file, in as many tries as it takes.
absl::Status BlobDownload::Fetch(const RepoFile& file) const {
  const std::string partial = cache->PartialPath(file.digest);
  const int fd = open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) return CacheError(errno, absl::StrCat("write ", partial));
  const std::unique_ptr<const int, void (*)(const int*)> closer(&fd,
                                                                [](const int* f) { close(*f); });
  if (lseek(fd, 0, SEEK_END) > file.size_bytes && ftruncate(fd, 0) != 0) {
    return CacheError(errno, absl::StrCat("cut ", partial));
  }
  while (lseek(fd, 0, SEEK_END) < file.size_bytes) {
    KVASIR_RETURN_IF_ERROR(
        retry->Run([&](bool* made_progress) { return FetchOnce(file, fd, made_progress); }));
  }
  // On the disk before it is under its name: a power cut must not leave a blob of zeros.
  if (fsync(fd) != 0) return CacheError(errno, absl::StrCat("write ", partial));
  return absl::OkStatus();
}

absl::Status BlobDownload::FetchOnce(const RepoFile& file, int fd, bool* made_progress) const {
  const std::string partial = cache->PartialPath(file.digest);
  const int64_t start = lseek(fd, 0, SEEK_END);
  int64_t at = start;
  const auto head = [&](const WebResponse& response) -> absl::Status {
    if (start == 0) return absl::OkStatus();
    if (response.status != 206) {  // the server knows no ranges: all of it comes
      at = 0;
      if (ftruncate(fd, 0) != 0) return CacheError(errno, absl::StrCat("cut ", partial));
      return absl::OkStatus();
    }
    const std::string range = response.Header("content-range");
    if (absl::StartsWith(range, absl::StrCat("bytes ", start, "-"))) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("the hub was asked for ", file.path,
                                                      " from byte ", start, " on and answers ",
                                                      Quoted(range)));
  };
  const auto body = [&](absl::string_view bytes) -> absl::Status {
    if (static_cast<int64_t>(bytes.size()) > file.size_bytes - at) {
      return absl::DataLossError(absl::StrCat("the hub lists ", file.size_bytes, " bytes of ",
                                              file.path, " but sends more"));
    }
    KVASIR_RETURN_IF_ERROR(WriteAt(fd, at, bytes, partial));
    at += static_cast<int64_t>(bytes.size());
    if (progress) progress(at);
    return absl::OkStatus();
  };
  const absl::Status status = api->GetFile(repo, commit, file.path, start, head, body);
  *made_progress = at - start >= kProgressBytes;
  // Longer than listed, or nothing where there should be more: what is there is not its beginning.
  if (absl::IsDataLoss(status) || absl::IsOutOfRange(status)) {
    if (ftruncate(fd, 0) != 0) return CacheError(errno, absl::StrCat("cut ", partial));
  }
  if (absl::IsOutOfRange(status)) return absl::UnavailableError(status.message());
  if (absl::IsDataLoss(status)) {
    std::remove(partial.c_str());
    return absl::DataLossError(absl::StrCat(status.message(), "; it is deleted"));
  }
  KVASIR_RETURN_IF_ERROR(status);
  if (at < file.size_bytes) {
    return absl::UnavailableError(
        absl::StrCat(file.path, " ended after ", at, " of ", file.size_bytes, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace kvasir
