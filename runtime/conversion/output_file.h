// One file being written, from its beginning to its end. Move-only; one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvasir {

class OutputFile {
 public:
  // A new file; one that is there already is an error. Errors name the path and the system's
  // reason: ResourceExhausted when the disk is full, PermissionDenied, ...
  static absl::StatusOr<OutputFile> Create(const std::string& path);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();  // closes; what was written stays

  absl::Status Write(absl::Span<const uint8_t> bytes);
  absl::Status Write(absl::string_view text);
  // Makes the file so many bytes long; what was not written reads as zeros. What is written next
  // still goes where the last write ended.
  absl::Status Extend(int64_t bytes);
  // Waits until the bytes are on the disk, and closes.
  absl::Status Finish();

 private:
  OutputFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Error(absl::string_view what) const;

  std::string path_;
  int fd_ = -1;
  int64_t bytes_written_ = 0;
};

// A whole small file.
absl::Status WriteFile(const std::string& path, absl::string_view text);

}  // namespace kvasir
