// RoPE and its context extensions from a config: rope_theta, rope_scaling, rope_parameters. Pure
// functions, thread safe.
#pragma once

#include "absl/status/statusor.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/layer_spec.h"

namespace kvasir {

// For heads of head_dim. InvalidArgument or Unimplemented, naming the key.
absl::StatusOr<RopeSpec> ReadRope(const JsonFields& config, int head_dim);

}  // namespace kvasir
