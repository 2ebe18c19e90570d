// A checkpoint, opened: a Hugging Face folder or a GGUF file, behind one interface. What its model
// is and where each of its weights stands have been held against each other; no weight has been
// read. Owns its mappings; its parts may be read from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/loading/stored_tensors.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model_spec.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

struct ModelPackage {
  ModelSpec spec;  // with the biases that its configuration leaves to the tensors
  TensorMap map;   // of spec, onto tensors
  std::unique_ptr<StoredTensors> tensors;
  uint64_t file_bytes = 0;  // of all weight files
  bool is_plain = false;    // a folder of plain numbers, whose format in memory a load chooses

  // `path`: NAME.gguf, any part of NAME-00001-of-0000N.gguf, or a folder with config.json,
  // *.safetensors and maybe generation_config.json. Takes well below a second whatever the size.
  // Errors name the file, the tensor or key, the value and the limit: NotFound, InvalidArgument,
  // Unimplemented.
  static absl::StatusOr<ModelPackage> Open(const std::string& path);

  // About what the weights will take in memory (Model::Options has the parameters).
  uint64_t HeldBytes(ComputeType compute_type, std::optional<WeightFormat> quantize_to) const;
};

}  // namespace kvasir
