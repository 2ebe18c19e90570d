// config.json and generation_config.json of a Hugging Face folder -> ModelSpec, by the
// class's entry in architectures/registry.h. Whatever a config asks for that its class does not do
// is refused by name, never ignored, so that no model runs with silently wrong results. Pure
// functions, thread safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// `generation_config` may be empty (it is optional). InvalidArgument names the key, the value and
// the limit; Unimplemented names the architecture or feature and what is supported.
absl::StatusOr<ModelSpec> ParseHfConfig(absl::string_view config,
                                        absl::string_view generation_config);

// The same for the files of a folder. NotFound without a config.json.
absl::StatusOr<ModelSpec> LoadHfConfig(const std::string& folder);

}  // namespace kvasir
