// A model in GGUF form, opened: one file, or the parts NAME-00001-of-0000N.gguf of a split one
// behind one list of tensors. Mapped, not read: bytes come from the disk when they are used.
// Immutable after Open; readable from any thread. Move-only.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/mmap_file.h"
#include "runtime/formats/gguf_header.h"

namespace kvasir {

// The files that hold the model of which `path` is the file or any part, in order; whether they
// exist is not looked at.
std::vector<std::string> GgufParts(const std::string& path);

class GgufFile {
 public:
  struct Tensor {
    GgufTensor info;
    int part = 0;
  };

  // `path`: the file, or any part of a split one; the others are looked for beside it.
  // Errors: those of MmapFile::Open and ParseGgufHeader; NotFound naming a missing part;
  // InvalidArgument for parts that do not belong together; Unimplemented for GGUF files that hold
  // no language model (adapters, projectors, importance matrices).
  static absl::StatusOr<GgufFile> Open(const std::string& path);

  // Of the first part.
  const GgufMetadata& metadata() const { return headers_.front().metadata; }
  // general.architecture; never empty.
  const std::string& architecture() const { return architecture_; }

  const std::map<absl::string_view, Tensor>& tensors() const { return tensors_; }
  const Tensor* Find(absl::string_view name) const;
  absl::Span<const uint8_t> Bytes(const Tensor& tensor) const;
  // The tensor's bytes have been used and may leave memory.
  void Release(const Tensor& tensor) const;

  size_t file_bytes() const;  // of all parts
  size_t num_parts() const { return files_.size(); }

 private:
  absl::Status AddPart(const std::string& path);
  absl::Status CheckPurpose() const;
  absl::Status CheckParts(size_t wanted_parts) const;

  std::vector<MmapFile> files_;      // [parts]
  std::vector<GgufHeader> headers_;  // [parts]; borrow files_
  std::map<absl::string_view, Tensor> tensors_;
  std::string architecture_;
};

}  // namespace kvasir
