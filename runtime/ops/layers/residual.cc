#include "runtime/ops/layers/residual.h"

#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/kernels/layer_kernels.h"
#include "runtime/kernels/score_kernels.h"
#include "runtime/ops/for_each_row.h"

namespace kvasir {

void JoinResidual(MatrixView c, const ResidualJoin& join, MatrixView x) {
  const int64_t n = x.cols;
  ForEachRow(x.rows, n, [&](int64_t r) {
    if (join.contribution_norm) NormRow(c.row(r), *join.contribution_norm, n, c.row(r));
    if (join.multiplier == 1.0f) {
      AddRow(c.row(r), n, x.row(r));
    } else {
      AddScaledRow(c.row(r), join.multiplier, n, x.row(r));
    }
    if (join.out_norm) NormRow(x.row(r), *join.out_norm, n, x.row(r));
  });
}

void ScaleRows(MatrixView x, float factor) {
  ForEachRow(x.rows, x.cols, [&](int64_t r) { ScaleRow(factor, x.cols, x.row(r)); });
}

void ScaleRows(MatrixView x, absl::Span<const float> factors) {
  ForEachRow(x.rows, x.cols, [&](int64_t r) { ScaleRow(factors[r], x.cols, x.row(r)); });
}

void ScaleHeadColumns(MatrixView x, int num_heads, int head_dim, const float* factors) {
  ForEachRow(x.rows, int64_t{num_heads} * head_dim, [&](int64_t r) {
    for (int head = 0; head < num_heads; ++head) {
      float* row = x.row(r) + int64_t{head} * head_dim;
      MulRow(row, factors, head_dim, row);
    }
  });
}

void CapLogits(MatrixView x, float multiplier, float cap) {
  if (cap > 0) {
    ForEachRow(x.rows, x.cols, [&](int64_t r) { CapScores(x.row(r), x.cols, multiplier, cap); });
  } else if (multiplier != 1.0f) {
    ScaleRows(x, multiplier);
  }
}

}  // namespace kvasir
