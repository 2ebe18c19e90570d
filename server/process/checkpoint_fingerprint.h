// Tells one checkpoint's weights from another's, so that a spilled session is never continued with
// K/V that another model computed. Pure function over files, thread safe; blocks on the disk.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// A digest in hex of a folder's config.json, quantize_config.json, hf_quant_config.json and
// *.safetensors, or of all parts of a GGUF file: of their names and sizes, and of samples spread
// over their bytes: weights that were trained apart differ everywhere, so reading all of many
// gigabytes would tell no more. `variant` goes in as well (the compute type: it changes K/V).
// NotFound or Internal when a file cannot be read.
absl::StatusOr<std::string> CheckpointFingerprint(const std::string& path,
                                                  absl::string_view variant);

}  // namespace kvasir
