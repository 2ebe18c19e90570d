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

// Reads each page. Bytes of a mapped file that became shorter are an EFAULT for the kernel; read
// here, they are zeros and a lost read (base/mapped_pages.h), and can be written.
void Touch(absl::Span<const uint8_t> bytes) {
  constexpr size_t kLeastPageBytes = 4096;
  const volatile uint8_t* const data = bytes.data();
  for (size_t i = 0; i < bytes.size(); i += kLeastPageBytes) (void)data[i];
  if (!bytes.empty()) (void)data[bytes.size() - 1];
}

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
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path_));
}

absl::Status OutputFile::Write(absl::Span<const uint8_t> bytes) {
  bool touched = false;
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(bytes.size(), kMaxWriteBytes));
    const ssize_t written = write(fd_, piece.data(), piece.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      if (errno == EFAULT && !touched) {
        Touch(piece);
        touched = true;
        continue;
      }
      return Error("write");
    }
    touched = false;
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
