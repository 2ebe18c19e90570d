// Weights brought from a checkpoint into the layout that oneDNN's products read, once, at load.
//
// The work goes slab by slab (some output rows at a time): convert or quantise in parallel into a
// small buffer, then put the slab into its place, by oneDNN's re-order or for kernels of our own.
// So the peak memory is the packed weights plus one slab, and pages of a mapped checkpoint are read
// once, in order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
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

// Elements that weights are converted to. kF16: parts that are stored so, as they are.
enum class PackedElement { kF32, kBf16, kF16, kInt8 };
inline int64_t ElementBytes(PackedElement element) {
  return element == PackedElement::kF32 ? 4 : element == PackedElement::kInt8 ? 1 : 2;
}

// Outputs [begin, begin + count), as `rows` [count][in], to their place in `to`. `begin` is a
// multiple of 64; `to` is zero where outputs or inputs are no multiples of it.
using PlaceRows =
    absl::FunctionRef<void(const void* rows, int64_t begin, int64_t count, uint8_t* to)>;

// The same for any layout of `bytes` bytes.
PackedWeights PackWeights(absl::Span<const StoredMatrix> parts,
                          absl::Span<const StoredMatrix> biases, PackedElement element,
                          int int8_limit, size_t bytes, PlaceRows place);

// The biases of `parts` one after the other, zeros where a part has none; empty without any.
AlignedBuffer<float> StackBiases(absl::Span<const StoredMatrix> parts,
                                 absl::Span<const StoredMatrix> biases);

}  // namespace kvasir
