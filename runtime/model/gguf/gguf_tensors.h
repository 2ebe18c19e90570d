// The tensors of an opened GGUF file as a source of weights. Parts that are whole rows are handed
// out in the file's own blocks, in any order of rows; others are dequantised first.
//
// Beside a tensor NAME.weight of type NVFP4 may stand NAME.scale, F32, the factor of all its values
// ([1]) or of each expert's ([experts]), and NAME.input_scale, which is of no use here.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
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
  // The factor of the values from element `offset` on of a tensor, 1 where none is stored.
  // InvalidArgument: there is one that cannot be.
  absl::StatusOr<float> Factor(const GgufFile::Tensor& tensor, int64_t offset) const;

  GgufFile file_;
};

}  // namespace kvasir
