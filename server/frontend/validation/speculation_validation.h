// The `speculation` of a request, from the wire to what the engine takes: a part of
// request_validation. Stateless, thread safe.
#pragma once

#include "kvasir/v1/generation.pb.h"
#include "runtime/engine/speculation/speculation_params.h"
#include "server/config/speculation_policy.h"
#include "server/frontend/validation/field_violations.h"

namespace kvasir {

// Adds to `violations` every field that breaks a limit of the API or of the operator's policy.
SpeculationParams CheckSpeculation(const v1::Speculation& speculation,
                                   const SpeculationPolicy& policy, Violations* violations);

}  // namespace kvasir
