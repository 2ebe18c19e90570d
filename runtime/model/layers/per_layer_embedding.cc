#include "runtime/model/layers/per_layer_embedding.h"

#include <cmath>
#include <cstring>
#include <optional>

#include "runtime/ops/input_rows.h"
#include "runtime/ops/layers/activation.h"
#include "runtime/ops/layers/norm.h"
#include "runtime/ops/layers/residual.h"

namespace kvasir {
namespace {

NormParams ParamsOf(const NormWeights& norm, float epsilon) {
  NormParams params;
  params.epsilon = epsilon;
  params.weight = norm.weight.data();
  return params;
}

}  // namespace

void PerLayerEmbedding::Begin(const PerLayerEmbeddingSpec& spec, const Embedding& table,
                              Linear* project, const NormWeights& norm, float norm_epsilon,
                              absl::Span<const TokenId> tokens, MatrixView x0) {
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t cols = project->out_features();
  storage_.Resize(RoundUpRows(count) * cols);
  rows_ = {storage_.data(), count, cols, cols};
  SetRows(x0, &input_);
  project->Run(input_, rows_, /*accumulate=*/false);

  tokens_.assign(tokens.begin(), tokens.end());
  for (TokenId& token : tokens_) {
    if (token >= spec.vocab_size) token = 0;
  }
  looked_up_.Resize(count * cols);
  const MatrixView looked_up{looked_up_.data(), count, cols, cols};
  table.Lookup(tokens_, looked_up);
  ScaleRows(rows_, 1.0f / std::sqrt(static_cast<float>(x0.cols)));
  const int layers = static_cast<int>(cols / spec.size);
  NormalizeHeads(rows_, layers, spec.size, ParamsOf(norm, norm_epsilon), /*weight_stride=*/0);
  JoinResidual(looked_up, {std::nullopt, std::sqrt(static_cast<float>(spec.size)), std::nullopt},
               rows_);
  ScaleRows(rows_, std::sqrt(0.5f));
}

void PerLayerEmbedding::KeepRows(absl::Span<const int32_t> rows) {
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r] == static_cast<int32_t>(r)) continue;
    std::memcpy(rows_.row(r), rows_.row(rows[r]), rows_.cols * sizeof(float));
  }
  rows_.rows = static_cast<int64_t>(rows.size());
}

void PerLayerEmbedding::Run(const PerLayerEmbeddingSpec& spec, int layer,
                            const PerLayerEmbeddingWeights& weights, float norm_epsilon,
                            MatrixView x, MatrixView out) {
  const int64_t size = spec.size;
  gate_up_.Resize(RoundUpRows(x.rows) * 2 * size);
  const MatrixView gate_up{gate_up_.data(), x.rows, 2 * size, 2 * size};
  SetRows(x, &input_);
  weights.gate->Run(input_, {gate_up.data, x.rows, size, 2 * size}, /*accumulate=*/false);
  for (int64_t r = 0; r < x.rows; ++r) {
    std::memcpy(gate_up.row(r) + size, rows_.row(r) + layer * size, size * sizeof(float));
  }
  Activate(spec.activation, /*gated=*/true, gate_up, &gated_);
  weights.project->Run(gated_, out, /*accumulate=*/false);
  NormalizeInPlace(out, ParamsOf(weights.norm, norm_epsilon));
}

}  // namespace kvasir
