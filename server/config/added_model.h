// A model that is loaded beside those of the configuration: the same checks as at the start, and
// what two configurations say that shall come and go. Pure functions, thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config/server_config.h"

namespace kvasir {

// The model of this name and path with the `options` of LoadModel, as a start with `running`, whose
// defaults are filled in, would take it. InvalidArgument: every fault found.
absl::StatusOr<ModelConfig> CheckAddedModel(const config::v1::Config& running,
                                            const std::string& name, const std::string& path,
                                            const std::string& options);

// Names of models, in the order of the configuration.
struct ModelChanges {
  std::vector<std::string> added;
  std::vector<std::string> removed;
};
ModelChanges ChangesOfModels(const config::v1::Config& running, const config::v1::Config& wanted);

}  // namespace kvasir
