// A gated delta net as a layer's mixer: two projections around the operation, whose state is the
// sequence's slot. Owns scratch: one per Decoder, not thread safe.
#pragma once

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/model/layer_spec.h"
#include "runtime/model/layer_weights.h"
#include "runtime/ops/layers/delta_net.h"
#include "runtime/ops/layers/recurrent_state.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

DeltaNetShape ShapeOf(const DeltaNetSpec& spec);

class DeltaNetLayer {
 public:
  explicit DeltaNetLayer(ComputeType compute_type) : mixed_(compute_type) {}

  // x: [rows, hidden], normalised; out: [rows, hidden], overwritten; room for RoundUpRows(rows).
  void Run(const DeltaNetSpec& spec, const DeltaNetWeights& weights, const MatmulInput& x,
           absl::Span<const RecurrentSequence> sequences, MatrixView out);

 private:
  DeltaNet delta_net_;
  AlignedBuffer<float> projected_;  // [rows][q, k, v, z, b, a]
  MatmulInput mixed_;               // [rows, value_heads * value_dim]
};

}  // namespace kvasir
