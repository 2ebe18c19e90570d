#include "base/mmap_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/mapped_pages.h"
#include "base/regular_file.h"
#include "base/status_macros.h"

namespace kvasir {

absl::StatusOr<MmapFile> MmapFile::Open(const std::string& path) {
  KVASIR_ASSIGN_OR_RETURN(const int fd, OpenRegularFile(path));
  struct stat info;
  if (fstat(fd, &info) != 0) {
    const absl::Status status = absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    close(fd);
    return status;
  }
  MmapFile file;
  file.path_ = path;
  file.size_ = static_cast<size_t>(info.st_size);
  if (file.size_ > 0) {
    void* memory = mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
      const int error = errno;
      close(fd);
      file.size_ = 0;
      const absl::Status status = absl::ErrnoToStatus(error, absl::StrCat("cannot map ", path));
      if (error != ENODEV) return status;
      return absl::FailedPreconditionError(
          absl::StrCat(status.message(), ": its file system maps no files; copy it to another"));
    }
    file.data_ = static_cast<const uint8_t*>(memory);
    AddMapping(memory, file.size_);
  }
  close(fd);
  return file;
}

MmapFile::MmapFile(MmapFile&& other) noexcept { *this = std::move(other); }

MmapFile& MmapFile::operator=(MmapFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

MmapFile::~MmapFile() {
  if (data_ == nullptr) return;
  RemoveMapping(data_);
  munmap(const_cast<uint8_t*>(data_), size_);
}

void MmapFile::Release(size_t offset, size_t length) const {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  const size_t begin = (offset + page - 1) / page * page;  // only whole pages inside the range
  const size_t end = (offset + length) / page * page;
  if (begin < end) madvise(const_cast<uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace kvasir
