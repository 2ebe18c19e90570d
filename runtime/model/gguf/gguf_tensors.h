// The tensors of an opened GGUF file as a source of weights. Parts that are whole rows are handed
// out in the file's own blocks, in any order of rows; others are dequantised first.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/formats/gguf_file.h"
#include "runtime/model/loading/stored_tensors.h"

namespace kvasir {

class GgufTensors : public StoredTensors {
 public:
  explicit GgufTensors(GgufFile file) : file_(std::move(file)) {}

  bool Has(const std::string& name) const override { return file_.Find(name) != nullptr; }
  std::vector<std::string> Names() const override;
  absl::Status Check(const std::string& name, absl::Span<const int64_t> shape) const override;
  absl::StatusOr<PartValues> Get(const WeightId& id, const StoredPart& part) override;
  void Release(const StoredPart& part) override;

 private:
  GgufFile file_;
};

}  // namespace kvasir
