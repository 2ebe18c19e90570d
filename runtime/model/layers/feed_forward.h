// The other half of a decoder layer: down(act(gate(x)) * up(x)), or down(act(up(x))), or the same
// by experts, or (Gemma 4) by experts beside it. Owns the experts' scratch: one per Decoder, not
// thread safe.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "runtime/model/activations.h"
#include "runtime/model/layers/expert_feed_forward.h"
#include "runtime/model/layers/residual_stream.h"
#include "runtime/model/model.h"
#include "runtime/model/weights.h"

namespace kvasir {

class FeedForward {
 public:
  FeedForward(const Model* model, const ResidualStream* stream, Activations* activations);

  // Reads the first `rows` rows of the residual stream and puts what `layer` contributes where the
  // stream wants it (ResidualStream::MlpTarget).
  void Run(int layer, int64_t rows);

  // Packed bytes of experts' weights read so far, the shared ones included.
  int64_t expert_bytes_read() const { return experts_.weight_bytes_read(); }

 private:
  void RunDense(int layer, int64_t rows, const Contribution& out);
  void RunExperts(int layer, int64_t rows, const Contribution& out);
  void RunExpertsBesideDense(int layer, int64_t rows, const Contribution& out);

  const Model& model_;
  const ResidualStream& stream_;
  Activations& activations_;
  MatmulInput router_input_;  // [rows, hidden_size]: routers read f32
  MatmulInput expert_input_;  // [rows, hidden_size]: of experts beside a dense MLP
  ExpertFeedForward experts_;
  AlignedBuffer<float> beside_;        // [rows][hidden_size]: what they contribute
  AlignedBuffer<float> router_scale_;  // [hidden_size]
  std::vector<float> deviations_;      // [num_layers]: DenseMlpSpec::sparsity as deviations
};

}  // namespace kvasir
