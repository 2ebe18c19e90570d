// The mixers that carry a state from token to token in place of K and V: gated delta net and short
// convolution. Finds each sequence's state in the pool. Borrows what it is given, owns scratch: one
// per Decoder, not thread safe.
#pragma once

#include <vector>

#include "kvcache/kv_arena.h"
#include "runtime/model/layer_spec.h"
#include "runtime/model/layer_weights.h"
#include "runtime/model/layers/delta_net_layer.h"
#include "runtime/model/layers/short_convolution_layer.h"
#include "runtime/model/step_rows.h"
#include "runtime/ops/layers/recurrent_state.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class StateMixer {
 public:
  StateMixer(const KvArena* arena, ComputeType compute_type)
      : arena_(*arena), delta_net_(compute_type), short_convolution_(compute_type) {}

  // x: [plan.all rows, hidden], the mixer's input; out: [rows, hidden], overwritten; room for
  // RoundUpRows(rows). Every row of the step passes: each changes its sequence's state.
  void Run(int layer, const LayerSpec& spec, const LayerWeights& weights, const BatchRows& plan,
           const MatmulInput& x, MatrixView out);

 private:
  const KvArena& arena_;
  DeltaNetLayer delta_net_;
  ShortConvolutionLayer short_convolution_;
  std::vector<RecurrentSequence> sequences_;
};

}  // namespace kvasir
