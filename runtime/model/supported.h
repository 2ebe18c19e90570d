// What the decoder can compute of what a spec can say: less, for now. Gone once it is all.
#pragma once

#include "absl/status/status.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// Unimplemented, naming the layer and what it needs.
absl::Status CheckSupported(const ModelSpec& spec);

}  // namespace kvasir
