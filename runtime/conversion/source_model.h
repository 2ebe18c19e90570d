// The checkpoint that a conversion starts from: a Hugging Face folder, opened and held against its
// own config, its tensors mapped and not read. Movable; one thread at a time.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model/loading/checkpoint.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

struct SourceModel {
  std::string folder;
  nlohmann::ordered_json config;  // config.json, keys in the file's order
  std::string generation_config;  // the file's text; empty = none
  ModelSpec spec;
  std::unique_ptr<Checkpoint> checkpoint;
  std::optional<TensorMap> map;  // of spec, always there

  // Errors: those of loading a model (NotFound, InvalidArgument, Unimplemented, PermissionDenied),
  // naming the file; Unimplemented for what no conversion can start from: weights that are
  // quantised already, a language model inside one of several media.
  static absl::StatusOr<SourceModel> Open(const std::string& folder);

  bool Has(const std::string& name) const { return checkpoint->Has(name); }
  // Of the stored tensors that the model needs.
  int64_t weight_bytes() const;
  WeightFormat TypeOf(const std::string& tensor) const;

  // Rows [begin, end) of a weight as f32, [end - begin, cols] of its role.
  absl::StatusOr<std::vector<float>> Rows(const WeightId& id, int64_t begin, int64_t end) const;
};

}  // namespace kvasir
