// A short convolution as a layer's mixer: two projections around the operation, whose state is the
// sequence's slot. Owns scratch: one per Decoder, not thread safe.
#pragma once

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/model/layer_spec.h"
#include "runtime/model/layer_weights.h"
#include "runtime/ops/layers/recurrent_state.h"
#include "runtime/ops/layers/short_convolution.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class ShortConvolutionLayer {
 public:
  explicit ShortConvolutionLayer(ComputeType compute_type) : mixed_(compute_type) {}

  // x: [rows, hidden], normalised; out: [rows, hidden], overwritten; room for RoundUpRows(rows).
  void Run(const ShortConvSpec& spec, const ShortConvWeights& weights, const MatmulInput& x,
           absl::Span<const RecurrentSequence> sequences, MatrixView out);

 private:
  ShortConvolution convolution_;
  AlignedBuffer<float> projected_;  // [rows][B, C, x]
  MatmulInput mixed_;               // [rows, hidden]
};

}  // namespace kvasir
