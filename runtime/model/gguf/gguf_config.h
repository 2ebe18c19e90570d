// GGUF metadata -> the config.json and generation_config.json that a Hugging Face folder of the
// same model would have, so that an architecture is described once (runtime/model/architectures).
// What the format leaves to its reader is in the architecture's GgufDialect. Pure functions, thread
// safe.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "runtime/formats/gguf_file.h"

namespace kvasir {

struct GgufConfig {
  nlohmann::json config;             // config.json
  nlohmann::json generation_config;  // generation_config.json
};

// InvalidArgument names the key; Unimplemented the architecture or the feature, and what there is.
absl::StatusOr<GgufConfig> ReadGgufConfig(const GgufFile& file);

}  // namespace kvasir
