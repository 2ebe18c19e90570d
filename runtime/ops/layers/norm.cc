#include "runtime/ops/layers/norm.h"

#include "runtime/ops/for_each_row.h"

namespace kvasir {

void Normalize(MatrixView x, const NormParams& norm, MatmulInput* out) {
  out->Resize(x.rows, x.cols);
  ForEachOperandRow(out, x.cols,
                    [&](int64_t r, auto* to) { return NormRow(x.row(r), norm, x.cols, to); });
}

void NormalizeInPlace(MatrixView x, const NormParams& norm) {
  ForEachRow(x.rows, x.cols, [&](int64_t r) { NormRow(x.row(r), norm, x.cols, x.row(r)); });
}

void NormalizeHeads(MatrixView x, int num_heads, int head_dim, const NormParams& norm,
                    int weight_stride) {
  ForEachRow(x.rows, int64_t{num_heads} * head_dim, [&](int64_t r) {
    NormParams own = norm;
    for (int head = 0; head < num_heads; ++head) {
      float* row = x.row(r) + int64_t{head} * head_dim;
      NormRow(row, own, head_dim, row);
      if (own.weight != nullptr) own.weight += weight_stride;
      if (own.bias != nullptr) own.bias += weight_stride;
    }
  });
}

}  // namespace kvasir
