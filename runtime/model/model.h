// One loaded checkpoint: its spec and its packed weights. Immutable after Load, so it may be read
// by any thread; it outlives every Decoder made from it. The tokenizer is loaded apart
// (runtime/tokenizer).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/model_spec.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class StoredTensors;
class TensorMap;
struct ModelWeights;

class Model {
 public:
  struct Options {
    ComputeType compute_type = ComputeType::kBf16;
    // Plain weights are brought into this block format while they are read (BuildWeights).
    std::optional<WeightFormat> quantize_to = std::nullopt;
    // No sequence will be longer (ModelSpec::OpenWindows); 0 = the model's own limit.
    int32_t max_context_tokens = 0;
    // Called now and then with the share of the weights loaded, 0 to 1; false ends the load with
    // Cancelled. May be empty.
    std::function<bool(double)> progress;
  };

  // Reads what ModelPackage opens; block-quantised weights of a file stay in their blocks. Errors:
  // those of ModelPackage::Open; InvalidArgument for damaged blocks; ResourceExhausted; Cancelled.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& path,
                                                     const Options& options);

  // Random weights of this shape, for benchmarks without a checkpoint. `seed` makes them
  // repeatable.
  static absl::StatusOr<std::unique_ptr<Model>> Random(const ModelSpec& spec,
                                                       const Options& options, uint64_t seed);

  ~Model();

  const ModelSpec& spec() const { return spec_; }
  // What Options asked for, or what this CPU offers instead (EffectiveComputeType).
  ComputeType compute_type() const { return compute_type_; }
  const ModelWeights& weights() const { return *weights_; }
  // Bytes of packed weights, embeddings included.
  size_t weight_bytes() const;
  // The same by the format that they are stored in: "q4_k", "bf16".
  std::map<std::string, int64_t> weight_bytes_by_format() const;

 private:
  Model(ModelSpec spec, ComputeType compute_type, std::unique_ptr<ModelWeights> weights);

  ModelSpec spec_;
  ComputeType compute_type_;
  std::unique_ptr<ModelWeights> weights_;
};

}  // namespace kvasir
