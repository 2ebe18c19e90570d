#include "runtime/ops/layers/short_convolution.h"

#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/layer_kernels.h"

namespace kvasir {

void ShortConvolution::Run(MatrixView projected, int kernel, const float* weight, const float* bias,
                           absl::Span<const RecurrentSequence> sequences, MatmulInput* out) {
  KVASIR_CHECK(projected.cols % 3 == 0);
  const int64_t rows = projected.rows, channels = projected.cols / 3;
  gated_.Resize(rows * channels);
  convolved_.Resize(rows * channels);
  out->Resize(rows, channels);
  const MatrixView gated{gated_.data(), rows, channels, channels};
  const MatrixView convolved{convolved_.data(), rows, channels, channels};
  ParallelFor(rows, [&](size_t r, int) {
    const float* b = projected.row(r);
    MulRow(b, b + 2 * channels, channels, gated.row(r));
  });
  CausalConvolution(gated, sequences, kernel, weight, bias, /*silu=*/false, convolved);
  ParallelFor(rows, [&](size_t r, int) {
    float* row = convolved.row(r);
    MulRow(projected.row(r) + channels, row, channels, row);
    out->SetRow(r, row);
  });
}

}  // namespace kvasir
