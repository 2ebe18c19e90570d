// A layer's norm, as the operations take it: what its spec says and what its weights hold.
#pragma once

#include <optional>

#include "runtime/model/layer_spec.h"
#include "runtime/model/layer_weights.h"
#include "runtime/ops/layers/norm.h"

namespace kvasir {

// Borrows the weights. Nothing where there is no norm.
inline std::optional<NormParams> NormParamsOf(const NormSpec& spec, const NormWeights& weights) {
  if (spec.kind == NormKind::kNone) return std::nullopt;
  NormParams norm;
  norm.centered = spec.kind == NormKind::kLayer;
  norm.epsilon = spec.eps;
  if (weights.weight.size() > 0) norm.weight = weights.weight.data();
  if (weights.bias.size() > 0) norm.bias = weights.bias.data();
  return norm;
}

}  // namespace kvasir
