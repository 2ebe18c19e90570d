// A file mapped read-only into memory. Move-only; unmapped on destruction. The mapping may be read
// from any thread. Bytes of a file that shrinks while mapped fault (see
// SurviveLostReads): model folders must not be edited in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvasir {

class MmapFile {
 public:
  // Errors: those of OpenRegularFile, and the system's when the file cannot be mapped. An empty
  // file is a valid mapping of no bytes.
  static absl::StatusOr<MmapFile> Open(const std::string& path);

  MmapFile() = default;
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;
  ~MmapFile();

  absl::Span<const uint8_t> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Tells the kernel that [offset, offset + length) will not be read again, so that its page cache
  // can go.
  void Release(size_t offset, size_t length) const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

}  // namespace kvasir
