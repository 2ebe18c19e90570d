#include "tests/reference/naive_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace kvasir::reference {

Matrix RandomMatrix(int64_t rows, int64_t cols, uint32_t seed, float deviation) {
  Matrix matrix(rows, cols);
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  for (float& x : matrix.data) x = normal(generator);
  return matrix;
}

std::vector<bf16> Narrow(const Matrix& matrix) {
  std::vector<bf16> narrow;
  narrow.reserve(matrix.data.size());
  for (const float x : matrix.data) narrow.push_back(ToBf16(x));
  return narrow;
}

Matrix Multiply(const Matrix& x, const Matrix& w, absl::Span<const float> bias) {
  Matrix y(x.rows, w.rows);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t j = 0; j < w.rows; ++j) {
      double sum = bias.empty() ? 0.0 : bias[j];
      for (int64_t k = 0; k < x.cols; ++k) sum += static_cast<double>(x.at(i, k)) * w.at(j, k);
      y.at(i, j) = static_cast<float>(sum);
    }
  }
  return y;
}

Matrix RmsNorm(const Matrix& x, absl::Span<const int32_t> rows, absl::Span<const float> weight,
               double epsilon) {
  Matrix y(rows.empty() ? x.rows : static_cast<int64_t>(rows.size()), x.cols);
  for (int64_t i = 0; i < y.rows; ++i) {
    const float* from = x.row(rows.empty() ? i : rows[i]);
    double squares = 0;
    for (int64_t j = 0; j < x.cols; ++j) squares += static_cast<double>(from[j]) * from[j];
    const double rms = std::sqrt(squares / x.cols + epsilon);
    for (int64_t j = 0; j < x.cols; ++j) y.at(i, j) = static_cast<float>(from[j] / rms * weight[j]);
  }
  return y;
}

Matrix Norm(const Matrix& x, bool centered, absl::Span<const float> weight,
            absl::Span<const float> bias, double epsilon) {
  Matrix y(x.rows, x.cols);
  for (int64_t i = 0; i < x.rows; ++i) {
    double mean = 0, squares = 0;
    for (int64_t j = 0; centered && j < x.cols; ++j) mean += x.at(i, j);
    mean /= static_cast<double>(x.cols);
    for (int64_t j = 0; j < x.cols; ++j) squares += (x.at(i, j) - mean) * (x.at(i, j) - mean);
    const double deviation = std::sqrt(squares / static_cast<double>(x.cols) + epsilon);
    for (int64_t j = 0; j < x.cols; ++j) {
      double value = (x.at(i, j) - mean) / deviation;
      if (!weight.empty()) value *= weight[j];
      if (!bias.empty()) value += bias[j];
      y.at(i, j) = static_cast<float>(value);
    }
  }
  return y;
}

double Activate(Activation activation, double x) {
  constexpr double kPi = 3.14159265358979323846;
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return x * std::erfc(-x / std::sqrt(2.0)) / 2;
    case Activation::kGeluTanh:
      return x * (1 + std::tanh(std::sqrt(2 / kPi) * (x + 0.044715 * x * x * x))) / 2;
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kRelu2:
      return x > 0 ? x * x : 0.0;
  }
  return 0;
}

Matrix SiluMul(const Matrix& gate_up) {
  const int64_t half = gate_up.cols / 2;
  Matrix y(gate_up.rows, half);
  for (int64_t i = 0; i < y.rows; ++i) {
    for (int64_t j = 0; j < half; ++j) {
      const double gate = gate_up.at(i, j);
      y.at(i, j) = static_cast<float>(gate / (1.0 + std::exp(-gate)) * gate_up.at(i, half + j));
    }
  }
  return y;
}

void Rope(Matrix* x, int num_heads, int head_dim, int rotary_dim,
          absl::Span<const int32_t> positions, double base) {
  const int half = rotary_dim / 2;
  for (int64_t r = 0; r < x->rows; ++r) {
    for (int head = 0; head < num_heads; ++head) {
      float* v = x->row(r) + static_cast<int64_t>(head) * head_dim;
      for (int i = 0; i < half; ++i) {
        const double angle = positions[r] * std::pow(base, -2.0 * i / rotary_dim);
        const double a = v[i], b = v[i + half];
        v[i] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
        v[i + half] = static_cast<float>(b * std::cos(angle) + a * std::sin(angle));
      }
    }
  }
}

Matrix Attend(const Matrix& q, const Matrix& k, const Matrix& v, int query_heads, int kv_heads,
              int first_position, double scale) {
  ScoreRules rules;
  rules.scale = scale;
  return Attend(q, k, v, query_heads, kv_heads, first_position, rules);
}

Matrix Attend(const Matrix& q, const Matrix& k, const Matrix& v, int query_heads, int kv_heads,
              int first_position, const ScoreRules& rules) {
  const int64_t k_dim = q.cols / query_heads;
  const int64_t v_dim = v.cols / kv_heads;
  Matrix out(q.rows, query_heads * v_dim);
  for (int64_t t = 0; t < q.rows; ++t) {
    const int64_t length = first_position + t + 1;
    const int64_t first = rules.window > 0 ? std::max<int64_t>(0, length - rules.window) : 0;
    for (int h = 0; h < query_heads; ++h) {
      const int kv_head = h / (query_heads / kv_heads);
      std::vector<double> weights(length);
      double max = -std::numeric_limits<double>::infinity();
      for (int64_t p = first; p < length; ++p) {
        double score = 0;
        for (int64_t i = 0; i < k_dim; ++i) {
          score += static_cast<double>(q.at(t, h * k_dim + i)) * k.at(p, kv_head * k_dim + i);
        }
        score *= rules.scale;
        if (rules.softcap > 0) score = rules.softcap * std::tanh(score / rules.softcap);
        if (!rules.alibi_slopes.empty() && rules.alibi_rounded) {
          const float slope = ToFloat(ToBf16(rules.alibi_slopes[h]));
          const double here = ToFloat(ToBf16(slope * static_cast<float>(p)));
          const double own = ToFloat(ToBf16(slope * static_cast<float>(length - 1)));
          score += (here - own) * rules.scale;
        } else if (!rules.alibi_slopes.empty()) {
          score += static_cast<double>(rules.alibi_slopes[h]) * static_cast<double>(p - length + 1);
        }
        weights[p] = score;
        max = std::max(max, weights[p]);
      }
      double sum = rules.sinks.empty() ? 0 : std::exp(rules.sinks[h] - max);
      for (int64_t p = first; p < length; ++p) sum += weights[p] = std::exp(weights[p] - max);
      for (int64_t i = 0; i < v_dim; ++i) {
        double mix = 0;
        for (int64_t p = first; p < length; ++p) mix += weights[p] * v.at(p, kv_head * v_dim + i);
        out.at(t, h * v_dim + i) = static_cast<float>(mix / sum);
      }
    }
  }
  return out;
}

double MaxDifference(const Matrix& a, const Matrix& b) {
  if (a.rows != b.rows || a.cols != b.cols) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < a.data.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a.data[i]) - b.data[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
  }
  return worst;
}

}  // namespace kvasir::reference
