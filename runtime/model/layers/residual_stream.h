// The residual stream x around the two sub-layers of a decoder layer: what each reads of it, and
// how its contribution joins it. The only place that knows where norms stand (NormPlacement) and
// what multiplies contributions.
//
//   ReadForMixer   what the mixer reads, into an operand
//   MixerTarget    where the mixer puts what it contributes
//   JoinMixer      ... and how that joins x
//   ReadForMlp, MlpTarget, JoinMlp: the same for the feed-forward
//
// Where nothing stands between a sub-layer's last product and x (pre-norm, factor 1), that product
// adds to x itself and joining does nothing.
//
// Borrows everything; stateless between calls. One per Decoder; not thread safe.
#pragma once

#include <cstdint>

#include "runtime/model/activations.h"
#include "runtime/model/model.h"
#include "runtime/model/weights.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

// Where a sub-layer puts its rows: overwriting, or adding to what stands there.
struct Contribution {
  MatrixView rows;  // [rows, hidden_size], with room for RoundUpRows(rows)
  bool accumulate = false;
};

class ResidualStream {
 public:
  ResidualStream(const Model* model, Activations* activations)
      : model_(*model), activations_(*activations) {}

  void ReadForMixer(int layer, int64_t rows, MatmulInput* out) const;
  // Mixers with a state overwrite, and so do experts: they never add to x themselves.
  Contribution MixerTarget(int layer, int64_t rows) const;
  void JoinMixer(int layer, int64_t rows) const;

  // kParallelOne: out is the operand that the mixer read, and stays what it is.
  void ReadForMlp(int layer, int64_t rows, MatmulInput* out) const;
  Contribution MlpTarget(int layer, int64_t rows) const;
  void JoinMlp(int layer, int64_t rows) const;

 private:
  const LayerSpec& Spec(int layer) const { return model_.spec().layers[layer]; }
  const LayerWeights& Weights(int layer) const { return model_.weights().layers[layer]; }
  bool MixerAddsDirectly(const LayerSpec& spec) const;
  bool MlpAddsDirectly(const LayerSpec& spec) const;
  void Read(const NormSpec& spec, const NormWeights& weights, int64_t rows, MatmulInput* out) const;
  void Join(const LayerSpec& spec, const NormWeights& post, int64_t rows) const;

  const Model& model_;
  Activations& activations_;
};

}  // namespace kvasir
