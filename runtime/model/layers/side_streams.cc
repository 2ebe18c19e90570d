#include "runtime/model/layers/side_streams.h"

#include "runtime/model/weights.h"
#include "runtime/ops/layers/residual.h"

namespace kvasir {

void SideStreams::Begin(absl::Span<const TokenId> tokens) {
  const ModelSpec& spec = model_.spec();
  const ModelWeights& weights = model_.weights();
  const MatrixView x = activations_.Residual(static_cast<int64_t>(tokens.size()));
  if (has_per_layer()) {
    per_layer_.Begin(spec.per_layer_embedding, *weights.per_layer_table,
                     weights.per_layer_project.get(), weights.per_layer_norm,
                     spec.layers[0].norm.eps, tokens, x);
  }
  if (alternates()) alternating_.Begin(spec.altup, weights.altup_project, x);
}

void SideStreams::BeforeLayer(int layer, int64_t rows) {
  if (!alternates()) return;
  const ModelSpec& spec = model_.spec();
  alternating_.Predict(spec.altup, *model_.weights().layers[layer].altup,
                       spec.layers[layer].norm.eps, activations_.Residual(rows));
}

void SideStreams::BeforeMixer(int layer, int64_t rows) {
  if (has_laurel()) stream_.ReadForMixer(layer, rows, &laurel_input_);
}

void SideStreams::AfterMixer(int layer, int64_t rows) {
  if (!has_laurel()) return;
  const MatrixView x = activations_.Residual(rows);
  const MatrixView normed{static_cast<float*>(laurel_input_.mutable_data()), rows, x.cols, x.cols};
  alternating_.AddLaurel(*model_.weights().layers[layer].altup,
                         model_.spec().layers[layer].norm.eps, normed, x);
}

void SideStreams::AfterMlp(int layer, int64_t rows) {
  const ModelSpec& spec = model_.spec();
  const LayerWeights& weights = model_.weights().layers[layer];
  const float epsilon = spec.layers[layer].norm.eps;
  const MatrixView x = activations_.Residual(rows);
  if (alternates()) alternating_.Correct(spec.altup, *weights.altup, epsilon, x);
  if (!has_per_layer()) return;
  const MatrixView contribution = activations_.Contributed(rows);
  per_layer_.Run(spec.per_layer_embedding, layer, weights.per_layer, epsilon, x, contribution);
  if (alternates()) {
    alternating_.AddToOthers(contribution);
  } else {
    JoinResidual(contribution, {}, x);
  }
}

void SideStreams::KeepRows(absl::Span<const int32_t> rows) {
  if (has_per_layer()) per_layer_.KeepRows(rows);
  if (alternates()) alternating_.KeepRows(rows);
}

void SideStreams::End(int64_t rows) {
  if (alternates()) {
    alternating_.End(model_.weights().altup_unproject, activations_.Residual(rows));
  }
}

}  // namespace kvasir
