// The architectures that can be read: for each, how its config.json becomes a ModelSpec and how its
// tensors are called. One file each in this folder, one line each in registry.cc. Immutable, thread
// safe.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/model/gguf/gguf_dialect.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

struct Architecture {
  const char* name;        // the class that config.json's "architectures" names
  const char* model_type;  // the config's "model_type"
  // Fills everything but `architecture` and what belongs to generation (eos, bos, sampling).
  // InvalidArgument or Unimplemented, naming the key, the value and what is allowed.
  absl::Status (*read)(const JsonFields& config, ModelSpec* spec);
  TensorNames (*names)(const ModelSpec& spec);
  // The class is a language model inside one of several media: the config nests it in text_config,
  // its tensors have longer prefixes, and those of the other media are left out.
  bool inside_another = false;
  GgufDialect gguf = {};
};

// Every architecture, in the order of the registry.
const std::vector<Architecture>& Architectures();

// By the class name, or by model_type where `name` is empty. Unimplemented, naming what there is.
absl::StatusOr<Architecture> FindArchitecture(absl::string_view file, absl::string_view name,
                                              absl::string_view model_type);

// By general.architecture of a GGUF file. Unimplemented, naming what there is.
absl::StatusOr<Architecture> FindGgufArchitecture(const std::string& name);

// The tensors of a spec that an architecture has read. `has`: see TensorMap::Create.
absl::StatusOr<TensorMap> MapTensors(const ModelSpec& spec,
                                     const std::function<bool(const std::string&)>& has);

}  // namespace kvasir
