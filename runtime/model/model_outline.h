// What a checkpoint says about itself, found out without reading its weights. Pure reads, thread
// safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/model_spec.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

struct ModelOutline {
  ModelSpec spec;
  uint64_t weight_bytes = 0;  // about what Model::Load will take for them
};

// Opens the configuration and the headers of all weight files of a folder or a GGUF file. Takes
// well below a second whatever the size. Errors: those of Model::Load, but for what is wrong with
// single tensors.
absl::StatusOr<ModelOutline> ReadModelOutline(const std::string& path, ComputeType compute_type);

// About what a plain checkpoint's weights will take in memory, `compute_type` as it is wanted. A
// CPU that computes bf16 in f32 keeps what is stored in 16 bits (runtime/ops/panel_linear.h).
uint64_t EstimateHeldBytes(const ModelSpec& spec, ComputeType compute_type, uint64_t file_bytes,
                           std::optional<WeightFormat> quantize_to = std::nullopt);

}  // namespace kvasir
