#include "runtime/model/feed_forward.h"

#include "runtime/ops/elementwise.h"

namespace kvasir {

void FeedForward(const LayerWeights& weights, const LayerSpec& spec, int64_t rows,
                 Activations* activations) {
  const MatrixView residual = activations->Residual(rows);
  const MatrixView gate_up = activations->GateUp(rows);
  RmsNorm(residual, {}, weights.mlp_norm.weight.data(), spec.norm.eps, &activations->normed);
  weights.mlp.gate_up->Run(activations->normed, gate_up, /*accumulate=*/false);
  SiluMul(gate_up, &activations->gated);
  weights.mlp.down->Run(activations->gated, residual, /*accumulate=*/true);
}

}  // namespace kvasir
