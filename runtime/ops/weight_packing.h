// Weights brought from a checkpoint into the layout that oneDNN's products read, once, at load.
//
// The work goes slab by slab (some output rows at a time): convert or quantise in parallel into a
// small buffer, then let oneDNN re-order the slab to its place. So the peak memory is the packed
// weights plus one slab, and pages of a mapped checkpoint are read once, in order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "base/huge_buffer.h"
#include "dnnl.hpp"
#include "runtime/ops/tensor.h"

namespace kvasir {

// Immutable after PackWeights; readable from any thread. Move-only.
struct PackedWeights {
  HugeBuffer data;                     // in the layout asked for
  AlignedBuffer<float> column_scales;  // [out], int8 only: weight = s8 * scale
  AlignedBuffer<int32_t>
      column_sums;            // [out], int8 only: sum of the s8 weights of an output channel
  AlignedBuffer<float> bias;  // [out], empty without any bias
};

// Stacks parts [out_i, in] over their rows and packs them into `layout` (logical dims [in, out];
// its data type is the compute type's). With int8, values use [-int8_limit, int8_limit]. Errors:
// Internal with oneDNN's message.
absl::StatusOr<PackedWeights> PackWeights(absl::Span<const StoredMatrix> parts,
                                          absl::Span<const StoredMatrix> biases,
                                          ComputeType compute_type, int int8_limit,
                                          const dnnl::memory::desc& layout,
                                          const dnnl::engine& engine);

// The biases of `parts` one after the other, zeros where a part has none; empty without any.
AlignedBuffer<float> StackBiases(absl::Span<const StoredMatrix> parts,
                                 absl::Span<const StoredMatrix> biases);

}  // namespace kvasir
