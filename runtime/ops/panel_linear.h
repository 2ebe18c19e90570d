// Linear by panel kernels (runtime/kernels/panels/panel_kernels.h): plain weights on CPUs that
// multiply neither bf16 nor int8 by themselves. Included by matmul.cc and tests only; everyone else
// uses matmul.h.
//
// Weights that are stored as bf16 or f16 stay so, where oneDNN's products would need them as f32:
// half of the memory, and a product of few rows takes half of the time. int8 weights are quantised
// as for oneDNN's products (onednn_matmul.h), with the same sums, which are exact; these would pack
// all weights anew in each product. A row's result does not depend on the number of rows.
#pragma once

#include <memory>

#include "absl/types/span.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

// Whether panels are the way: `wanted` as the caller of Linear::Create wants it. Shapes are already
// checked.
bool SuitsPanels(absl::Span<const StoredMatrix> parts, ComputeType wanted);

std::unique_ptr<Linear> CreatePanelLinear(absl::Span<const StoredMatrix> parts,
                                          absl::Span<const StoredMatrix> biases,
                                          ComputeType wanted);

}  // namespace kvasir
