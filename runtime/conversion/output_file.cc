#include "runtime/conversion/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

// Bytes handed to the kernel at once, so that an interrupt is seen in between.
constexpr size_t kMaxWriteBytes = size_t{16} << 20;

}  // namespace

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", path));
  return OutputFile(path, fd);
}

OutputFile::OutputFile(OutputFile&& other) noexcept { *this = std::move(other); }

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(bytes_written_, other.bytes_written_);
  return *this;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status OutputFile::Error(absl::string_view what) const {
  if (errno == ENOSPC || errno == EDQUOT) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot ", what, " ", path_, " after ",
                                                     bytes_written_,
                                                     " bytes: no space left on the disk"));
  }
  if (errno == EFAULT) {  // the kernel, which reads them, gets no signal
    return absl::FailedPreconditionError(
        absl::StrCat("cannot ", what, " ", path_,
                     ": a file of the source became shorter, or its disk failed, while it was "
                     "read; convert it again when it is whole"));
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path_));
}

absl::Status OutputFile::Write(absl::Span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), std::min(bytes.size(), kMaxWriteBytes));
    if (written < 0) {
      if (errno == EINTR) continue;
      return Error("write");
    }
    bytes.remove_prefix(static_cast<size_t>(written));
    bytes_written_ += written;
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Write(absl::string_view text) {
  return Write(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

absl::Status OutputFile::Extend(int64_t bytes) {
  if (ftruncate(fd_, bytes) != 0) return Error("extend");
  return absl::OkStatus();
}

absl::Status OutputFile::Finish() {
  // File systems may find out here only that they are full.
  if (fsync(fd_) != 0) return Error("write");
  if (close(std::exchange(fd_, -1)) != 0) return Error("close");
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& path, absl::string_view text) {
  KVASIR_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  KVASIR_RETURN_IF_ERROR(file.Write(text));
  return file.Finish();
}

}  // namespace kvasir
