// The other half of a decoder layer: residual += down(silu(gate(x)) * up(x)), x = norm(residual).
#pragma once

#include <cstdint>

#include "runtime/model/activations.h"
#include "runtime/model/weights.h"

namespace kvasir {

// Over the first `rows` rows of the residual stream. Not thread safe (activations).
void FeedForward(const LayerWeights& weights, const LayerSpec& spec, int64_t rows,
                 Activations* activations);

}  // namespace kvasir
