// The files of which a checkpoint consists. Pure function over a folder's names, thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kvasir {

// `path` as ModelPackage::Open takes it: all parts of a GGUF file, in order and whether they exist
// or not; or what a load may read of a Hugging Face folder, sorted: weights, configurations,
// vocabulary, templates. Errors: those of listing the folder.
absl::StatusOr<std::vector<std::string>> CheckpointFiles(const std::string& path);

}  // namespace kvasir
