#include "runtime/model/layers/feed_forward.h"

#include <cmath>
#include <optional>

#include "base/check.h"
#include "runtime/model/layers/norm_params.h"
#include "runtime/ops/layers/activation.h"
#include "runtime/ops/layers/norm.h"
#include "runtime/ops/layers/residual.h"

namespace kvasir {

FeedForward::FeedForward(const Model* model, const ResidualStream* stream, Activations* activations)
    : model_(*model),
      stream_(*stream),
      activations_(*activations),
      router_input_(ComputeType::kF32),
      expert_input_(model->compute_type()),
      experts_(model->compute_type()) {
  for (const LayerSpec& layer : model->spec().layers) {
    const float sparsity = layer.feed_forward.dense.sparsity;
    deviations_.push_back(sparsity > 0 ? static_cast<float>(NormalQuantile(sparsity)) : 0.0f);
  }
}

void FeedForward::Run(int layer, int64_t rows) {
  const Contribution out = stream_.MlpTarget(layer, rows);
  stream_.ReadForMlp(layer, rows, &activations_.normed);
  const std::optional<MoeSpec>& moe = model_.spec().layers[layer].feed_forward.moe;
  if (!moe) {
    RunDense(layer, rows, out);
  } else if (moe->beside_dense) {
    RunExpertsBesideDense(layer, rows, out);
  } else {
    RunExperts(layer, rows, out);
  }
}

void FeedForward::RunDense(int layer, int64_t rows, const Contribution& out) {
  const DenseMlpSpec& spec = model_.spec().layers[layer].feed_forward.dense;
  const MlpWeights& weights = model_.weights().layers[layer].mlp;
  const MatrixView gate_up = activations_.GateUp(rows, weights.gate_up->out_features());
  if (spec.gated && spec.sparsity == 0) {
    weights.gate_up->RunGated(activations_.normed, spec.activation, gate_up, &activations_.gated);
  } else {
    weights.gate_up->Run(activations_.normed, gate_up, /*accumulate=*/false);
    if (spec.sparsity > 0) {
      KeepLargest({gate_up.data, rows, gate_up.cols / 2, gate_up.stride}, deviations_[layer]);
    }
    Activate(spec.activation, spec.gated, gate_up, &activations_.gated);
  }
  weights.down->Run(activations_.gated, out.rows, out.accumulate);
}

void FeedForward::RunExperts(int layer, int64_t rows, const Contribution& out) {
  KVASIR_CHECK(!out.accumulate);  // experts overwrite
  stream_.ReadForMlp(layer, rows, &router_input_);
  experts_.Run(*model_.spec().layers[layer].feed_forward.moe, *model_.weights().layers[layer].moe,
               router_input_, activations_.normed, out.rows);
}

// Gemma 4: norm(dense(normed)) + norm(experts(norm(x))), routed by x / rms(x) * scale /
// sqrt(hidden).
void FeedForward::RunExpertsBesideDense(int layer, int64_t rows, const Contribution& out) {
  KVASIR_CHECK(!out.accumulate);  // experts overwrite
  const NormSpec& norm = model_.spec().layers[layer].norm;
  const MoeWeights& weights = *model_.weights().layers[layer].moe;
  const MatrixView x = activations_.Residual(rows);
  RunDense(layer, rows, out);
  NormalizeInPlace(out.rows, *NormParamsOf(norm, weights.dense_post_norm));

  router_scale_.Resize(x.cols);
  const float root = 1.0f / std::sqrt(static_cast<float>(x.cols));
  for (int64_t i = 0; i < x.cols; ++i) router_scale_[i] = weights.router_scale[i] * root;
  NormParams router_norm;
  router_norm.epsilon = norm.eps;
  router_norm.weight = router_scale_.data();
  Normalize(x, router_norm, &router_input_);
  Normalize(x, *NormParamsOf(norm, weights.pre_norm), &expert_input_);
  beside_.Resize(RoundUpRows(rows) * x.cols);
  const MatrixView beside{beside_.data(), rows, x.cols, x.cols};
  experts_.Run(*model_.spec().layers[layer].feed_forward.moe, weights, router_input_, expert_input_,
               beside);
  JoinResidual(beside, {NormParamsOf(norm, weights.post_norm), 1.0f, std::nullopt}, out.rows);
}

}  // namespace kvasir
