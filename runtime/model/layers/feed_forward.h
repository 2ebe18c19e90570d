// The other half of a decoder layer: residual += down(act(gate(x)) * up(x)), x = norm(residual), or
// the same by experts. Owns the experts' scratch: one per Decoder, not thread safe.
#pragma once

#include <cstdint>

#include "runtime/model/activations.h"
#include "runtime/model/layers/expert_feed_forward.h"
#include "runtime/model/weights.h"

namespace kvasir {

class FeedForward {
 public:
  FeedForward(ComputeType compute_type, Activations* activations)
      : activations_(*activations), router_input_(ComputeType::kF32), experts_(compute_type) {}

  // Over the first `rows` rows of the residual stream.
  void Run(const LayerSpec& spec, const LayerWeights& weights, int64_t rows);

  // Packed bytes of experts' weights read so far.
  int64_t expert_bytes_read() const { return experts_.weight_bytes_read(); }

 private:
  void RunExperts(const LayerSpec& spec, const LayerWeights& weights, int64_t rows);

  Activations& activations_;
  MatmulInput router_input_;  // [rows, hidden_size]: routers read f32
  ExpertFeedForward experts_;
  AlignedBuffer<float> contribution_;  // [rows][hidden_size]
};

}  // namespace kvasir
