#include "runtime/ops/layers/activation.h"

#include <cmath>

#include "base/check.h"
#include "runtime/kernels/layer_kernels.h"
#include "runtime/ops/for_each_row.h"

namespace kvasir {

void Activate(Activation activation, bool gated, MatrixView x, MatmulInput* out) {
  const int64_t cols = gated ? x.cols / 2 : x.cols;
  out->Resize(x.rows, cols);
  ForEachOperandRow(out, x.cols, [&](int64_t r, auto* to) {
    const float* up = gated ? x.row(r) + cols : nullptr;
    return ActivateRow(activation, x.row(r), up, cols, to);
  });
}

void KeepLargest(MatrixView x, float deviations) {
  ForEachRow(x.rows, x.cols, [&](int64_t r) { KeepOutliersRow(deviations, x.cols, x.row(r)); });
}

double NormalQuantile(double p) {
  KVASIR_CHECK(p > 0 && p < 1);
  // Bisection on the distribution function is exact to the last bits.
  double low = -40, high = 40;
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = 0.5 * (low + high);
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

}  // namespace kvasir
