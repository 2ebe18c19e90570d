// What a GGUF file says about its model, for the architectures that conversions write: the inverse
// of runtime/model/gguf/gguf_config.h. Pure functions, thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/formats/gguf_header_writer.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// general.architecture of a model. Unimplemented, with the reason: another architecture, sharing
// between layers, windows, a kind of RoPE that has no place in these files.
absl::StatusOr<std::string> GgufArchitectureOf(const ModelSpec& spec);

// Adds the keys of `architecture`, apart from the tokenizer's.
void AddGgufMetadata(const ModelSpec& spec, const std::string& architecture,
                     GgufHeaderWriter* header);

// What the frequencies of the model's RoPE are divided by, of a file's tensor rope_freqs.weight;
// empty = the file has none.
std::vector<float> GgufRopeDivisors(const ModelSpec& spec);

// Holds what was read back from a written file against what was meant. Internal, naming the
// difference.
absl::Status CheckSameModel(const ModelSpec& meant, const ModelSpec& read);

}  // namespace kvasir
