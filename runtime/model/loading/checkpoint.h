// The tensors of a Hugging Face folder: model.safetensors, or the shards that
// model.safetensors.index.json names. Mapped, not read: a tensor costs memory only while it is
// used.
//
// Owns the mappings. Thread safe (const); Get and Release are const in effect.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mmap_file.h"
#include "runtime/model/loading/stored_tensors.h"
#include "runtime/model/safetensors.h"

namespace kvasir {

class Checkpoint : public StoredTensors {
 public:
  struct Tensor {
    SafetensorsEntry entry;
    int file = 0;  // index into the mapped files
  };

  // Errors name the file: NotFound (no weights, or a missing shard), InvalidArgument (a damaged
  // file, an index that contradicts the shards or points out of the folder).
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& folder);

  bool Has(const std::string& name) const override { return tensors_.count(name) > 0; }
  std::vector<std::string> Names() const override;
  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }
  // One of tensors().
  absl::Span<const uint8_t> Bytes(const Tensor& tensor) const;
  // Of all files.
  uint64_t file_bytes() const;

  absl::Status Check(const std::string& name, absl::Span<const int64_t> shape) const override;

  absl::StatusOr<PartValues> Get(const WeightId& id, const StoredPart& part) override;
  void Release(const StoredPart& part) override;
  // Slice `index` of `count` equal ones of a tensor's bytes.
  void ReleaseSlice(const std::string& name, int64_t index, int64_t count);

 private:
  Checkpoint() = default;

  // Maps one file and adds its tensors.
  absl::Status Add(const std::string& path);
  // Opens the shards of an index and holds both against each other.
  absl::Status AddShards(const std::string& folder, const std::string& index_path);

  std::vector<MmapFile> files_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace kvasir
