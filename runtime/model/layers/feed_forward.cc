#include "runtime/model/layers/feed_forward.h"

#include "runtime/ops/elementwise.h"
#include "runtime/ops/layers/expert_routing.h"

namespace kvasir {

void FeedForward::Run(const LayerSpec& spec, const LayerWeights& weights, int64_t rows) {
  const MatrixView residual = activations_.Residual(rows);
  MatmulInput& normed = activations_.normed;
  RmsNorm(residual, {}, weights.mlp_norm.weight.data(), spec.norm.eps, &normed);
  if (spec.feed_forward.moe) {
    RunExperts(spec, weights, rows);
    return;
  }
  const MatrixView gate_up = activations_.GateUp(rows);
  weights.mlp.gate_up->Run(normed, gate_up, /*accumulate=*/false);
  SiluMul(gate_up, &activations_.gated);
  weights.mlp.down->Run(activations_.gated, residual, /*accumulate=*/true);
}

void FeedForward::RunExperts(const LayerSpec& spec, const LayerWeights& weights, int64_t rows) {
  const MatrixView residual = activations_.Residual(rows);
  RmsNorm(residual, {}, weights.mlp_norm.weight.data(), spec.norm.eps, &router_input_);
  contribution_.Resize(RoundUpRows(rows) * residual.cols);
  const MatrixView contribution{contribution_.data(), rows, residual.cols, residual.cols};
  experts_.Run(*spec.feed_forward.moe, *weights.moe, router_input_, activations_.normed,
               contribution);
  AddRows(contribution, residual);
}

}  // namespace kvasir
