// What a GGUF file says about its model: the inverse of runtime/model/gguf/gguf_config.h. Pure
// functions, thread safe.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/formats/gguf_header_writer.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// The registry's entry by which files of the model's name are read: its dialect says how they are
// written too. Unimplemented: the format has no name for the architecture, or no place for what
// the model does in all layers (sharing of K/V).
absl::StatusOr<Architecture> GgufArchitectureOf(const ModelSpec& spec);

// Adds the keys of `architecture`, apart from the tokenizer's. `config`: config.json, for what a
// spec does not keep.
void AddGgufMetadata(const ModelSpec& spec, const nlohmann::ordered_json& config,
                     const Architecture& architecture, GgufHeaderWriter* header);

// Vectors of F32 that belong to a file's metadata: what the frequencies of the model's RoPE are
// divided by. Name and values each.
std::vector<std::pair<std::string, std::vector<float>>> GgufRopeTensors(const ModelSpec& spec);

// Holds what was read back from a written file against what was meant. Unimplemented, naming the
// difference: the format cannot say it.
absl::Status CheckSameModel(const ModelSpec& meant, const ModelSpec& read);

}  // namespace kvasir
