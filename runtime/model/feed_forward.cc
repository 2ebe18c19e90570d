#include "runtime/model/feed_forward.h"

#include "runtime/ops/elementwise.h"

namespace kvasir {

void FeedForward(const LayerWeights& weights, float rms_norm_eps, int64_t rows,
                 Activations* activations) {
  const MatrixView residual = activations->Residual(rows);
  const MatrixView gate_up = activations->GateUp(rows);
  RmsNorm(residual, {}, weights.mlp_norm.data(), rms_norm_eps, &activations->normed);
  weights.gate_up->Run(activations->normed, gate_up, /*accumulate=*/false);
  SiluMul(gate_up, &activations->gated);
  weights.down->Run(activations->gated, residual, /*accumulate=*/true);
}

}  // namespace kvasir
