// A mixture of experts: out = sum over a row's chosen experts of weight * down(act(gate x) * up x),
// plus the expert that every row passes.
//
// Rows are gathered per expert, so that an expert's weights are read once per step, and only those
// of experts that some row chose. Experts run in ascending order and add in that order: a row's sum
// has the same order in any batch. Owns scratch: one per Decoder, not thread safe.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "runtime/model/layer_spec.h"
#include "runtime/model/layer_weights.h"
#include "runtime/ops/layers/expert_routing.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class ExpertFeedForward {
 public:
  explicit ExpertFeedForward(ComputeType compute_type)
      : gathered_(compute_type), gated_(compute_type) {}

  // router_x: [rows, hidden] f32, what the router reads; x: [rows, hidden], what the experts read.
  // out: [rows, hidden], overwritten; room for RoundUpRows(rows).
  void Run(const MoeSpec& spec, const MoeWeights& weights, const MatmulInput& router_x,
           const MatmulInput& x, MatrixView out);

  // Packed bytes of expert weights that Run has read so far, the shared ones included.
  int64_t weight_bytes_read() const { return weight_bytes_read_; }

 private:
  void RunExpert(const MoeSpec& spec, const MlpWeights& expert, const MatmulInput& x,
                 MatrixView out);

  ExpertRows routed_;
  MatmulInput gathered_;           // [rows of one expert, hidden]
  MatmulInput gated_;              // [rows of one expert, width]
  AlignedBuffer<float> logits_;    // [rows][experts]
  AlignedBuffer<float> gate_up_;   // [rows of one expert][2 * width]
  AlignedBuffer<float> computed_;  // [rows of one expert][hidden]
  int64_t weight_bytes_read_ = 0;
};

}  // namespace kvasir
