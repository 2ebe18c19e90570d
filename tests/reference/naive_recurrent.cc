#include "tests/reference/naive_recurrent.h"

#include <cmath>
#include <vector>

namespace kvasir::reference {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// x / sqrt(sum of squares + 1e-6)
std::vector<double> Unit(const float* x, int n) {
  double sum = 1e-6;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  std::vector<double> unit(n);
  for (int i = 0; i < n; ++i) unit[i] = x[i] / std::sqrt(sum);
  return unit;
}

}  // namespace

Matrix CausalConvolution(const Matrix& x, const Matrix& weight, absl::Span<const float> bias,
                         bool silu) {
  Matrix out(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t c = 0; c < x.cols; ++c) {
      double sum = bias.empty() ? 0.0 : bias[c];
      for (int64_t j = 0; j < weight.rows; ++j) {
        const int64_t from = t - weight.rows + 1 + j;
        if (from >= 0) sum += static_cast<double>(weight.at(j, c)) * x.at(from, c);
      }
      out.at(t, c) = static_cast<float>(silu ? sum * Sigmoid(sum) : sum);
    }
  }
  return out;
}

Matrix DeltaNet(const Matrix& projected, const DeltaNetSizes& sizes, const Matrix& conv,
                absl::Span<const float> decay, absl::Span<const float> dt_bias,
                absl::Span<const float> norm) {
  const int dk = sizes.key_dim, dv = sizes.value_dim;
  const int keys = sizes.key_heads * dk, values = sizes.value_heads * dv;
  Matrix inputs(projected.rows, 2 * keys + values);
  for (int64_t t = 0; t < projected.rows; ++t) {
    for (int64_t c = 0; c < inputs.cols; ++c) inputs.at(t, c) = projected.at(t, c);
  }
  const Matrix qkv = CausalConvolution(inputs, conv, {}, /*silu=*/true);
  Matrix out(projected.rows, values);
  for (int h = 0; h < sizes.value_heads; ++h) {
    const int key_head = h / (sizes.value_heads / sizes.key_heads);
    std::vector<std::vector<double>> state(dk, std::vector<double>(dv, 0.0));
    for (int64_t t = 0; t < projected.rows; ++t) {
      const std::vector<double> q = Unit(qkv.row(t) + key_head * dk, dk);
      const std::vector<double> k = Unit(qkv.row(t) + keys + key_head * dk, dk);
      const float* v = qkv.row(t) + 2 * keys + h * dv;
      const float* z = projected.row(t) + 2 * keys + values + h * dv;
      const float* ba = projected.row(t) + 2 * keys + 2 * values;
      const double beta = Sigmoid(ba[h]);
      const double softplus = std::log1p(std::exp(double{ba[sizes.value_heads + h]} + dt_bias[h]));
      const double shrink = std::exp(-decay[h] * softplus);
      std::vector<double> o(dv);
      double squares = 0;
      for (int c = 0; c < dv; ++c) {
        double recalled = 0;
        for (int i = 0; i < dk; ++i) {
          state[i][c] *= shrink;
          recalled += state[i][c] * k[i];
        }
        const double delta = beta * (v[c] - recalled);
        for (int i = 0; i < dk; ++i) {
          state[i][c] += k[i] * delta;
          o[c] += state[i][c] * q[i] / std::sqrt(dk);
        }
        squares += o[c] * o[c];
      }
      for (int c = 0; c < dv; ++c) {
        const double normed = o[c] / std::sqrt(squares / dv + sizes.norm_epsilon) * norm[c];
        out.at(t, h * dv + c) = static_cast<float>(normed * z[c] * Sigmoid(z[c]));
      }
    }
  }
  return out;
}

}  // namespace kvasir::reference
