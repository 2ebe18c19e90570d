// A Hugging Face folder whose weights are quantised, as a source of weights: modules whose values
// stand in several tensors appear as the one tensor that models ask for, in blocks; all others are
// the checkpoint's own. Which modules a quantiser left out is seen by their tensors.
//
// Thread safe (const); Get and Release are const in effect.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model/loading/checkpoint.h"
#include "runtime/model/loading/stored_tensors.h"
#include "runtime/model/quantized/quantization_config.h"
#include "runtime/model/quantized/row_reader.h"
#include "runtime/model/quantized/tensor_bytes.h"

namespace kvasir {

class QuantizedTensors : public StoredTensors {
 public:
  // NotFound (a module's tensor is missing), InvalidArgument, Unimplemented, naming the tensor.
  static absl::StatusOr<std::unique_ptr<QuantizedTensors>> Create(
      const QuantizationConfig& config, std::unique_ptr<Checkpoint> checkpoint);

  bool Has(const std::string& name) const override;
  std::vector<std::string> Names() const override;
  absl::Status Check(const std::string& name, absl::Span<const int64_t> shape) const override;
  absl::StatusOr<PartValues> Get(const WeightId& id, const StoredPart& part) override;
  void Release(const StoredPart& part) override;

 private:
  struct Module {
    std::unique_ptr<RowReader> reader;
    std::vector<std::string> tensors;  // that it is made of
  };

  explicit QuantizedTensors(std::unique_ptr<Checkpoint> checkpoint)
      : checkpoint_(std::move(checkpoint)) {}

  absl::Status AddModules(const QuantizationConfig& config);
  absl::Status AddModule(const QuantizationConfig& config, const std::string& tensor,
                         const std::string& base);
  absl::StatusOr<TensorBytes> Bytes(const std::string& name, const std::string& wanted_by) const;

  std::unique_ptr<Checkpoint> checkpoint_;
  std::map<std::string, Module, std::less<>> modules_;  // by the name that models ask for
  std::set<std::string, std::less<>> consumed_;         // tensors that are not shown
};

}  // namespace kvasir
