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

  // Reads a Hugging Face folder (config.json, *.safetensors, optional generation_config.json), or a
  // GGUF file (NAME.gguf, or any part of NAME-00001-of-0000N.gguf), whose block-quantised weights
  // stay in their blocks. Errors name the file, the tensor or key, the value and the limit:
  // NotFound, InvalidArgument, Unimplemented (unknown architecture), ResourceExhausted.
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
  static absl::StatusOr<std::unique_ptr<Model>> LoadGguf(const std::string& path,
                                                         const Options& options);
  // `needed_bytes`: about what the weights will take.
  static absl::StatusOr<std::unique_ptr<Model>> Build(ModelSpec spec, const TensorMap& map,
                                                      uint64_t needed_bytes, StoredTensors* tensors,
                                                      const Options& options);
  Model(ModelSpec spec, ComputeType compute_type, std::unique_ptr<ModelWeights> weights);

  ModelSpec spec_;
  ComputeType compute_type_;
  std::unique_ptr<ModelWeights> weights_;
};

}  // namespace kvasir
