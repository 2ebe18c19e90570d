// A served model as the API describes it: its numbers, its K/V sharing scheme and what one token
// costs.
#pragma once

#include "kvasir/v1/generation.pb.h"
#include "server/frontend/model_registry.h"

namespace kvasir {

// Thread safe; reads constants and the engine's atomics.
v1::Model DescribeModel(const ServedModel& served);
// With its state; of a model that is not loaded, not much else.
v1::Model DescribeEntry(const ModelEntry& entry);

}  // namespace kvasir
