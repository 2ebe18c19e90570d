#include "runtime/model/layers/short_convolution_layer.h"

namespace kvasir {

void ShortConvolutionLayer::Run(const ShortConvSpec& spec, const ShortConvWeights& weights,
                                const MatmulInput& x, absl::Span<const RecurrentSequence> sequences,
                                MatrixView out) {
  const int64_t cols = weights.in->out_features();
  projected_.Resize(RoundUpRows(x.rows()) * cols);
  const MatrixView projected{projected_.data(), x.rows(), cols, cols};
  weights.in->Run(x, projected, /*accumulate=*/false);
  convolution_.Run(projected, spec.kernel, weights.conv.data(),
                   weights.conv_bias.size() > 0 ? weights.conv_bias.data() : nullptr, sequences,
                   &mixed_);
  weights.out->Run(mixed_, out, /*accumulate=*/false);
}

}  // namespace kvasir
