#include "runtime/model/layers/delta_net_layer.h"

namespace kvasir {

DeltaNetShape ShapeOf(const DeltaNetSpec& spec) {
  DeltaNetShape shape;
  shape.key_heads = spec.key_heads;
  shape.value_heads = spec.value_heads;
  shape.key_dim = spec.key_dim;
  shape.value_dim = spec.value_dim;
  shape.conv_kernel = spec.conv_kernel;
  shape.norm_epsilon = spec.norm.eps;
  return shape;
}

void DeltaNetLayer::Run(const DeltaNetSpec& spec, const DeltaNetWeights& weights,
                        const MatmulInput& x, absl::Span<const RecurrentSequence> sequences,
                        MatrixView out) {
  const DeltaNetShape shape = ShapeOf(spec);
  const int64_t cols = shape.projected_columns();
  projected_.Resize(RoundUpRows(x.rows()) * cols);
  const MatrixView projected{projected_.data(), x.rows(), cols, cols};
  weights.in->Run(x, projected, /*accumulate=*/false);
  delta_net_.Run(projected, shape,
                 {weights.conv.data(), weights.decay.data(), weights.dt_bias.data(),
                  weights.norm.weight.data()},
                 sequences, &mixed_);
  weights.out->Run(mixed_, out, /*accumulate=*/false);
}

}  // namespace kvasir
