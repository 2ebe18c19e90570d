#include "tests/reference/sparq_reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kvasir::reference {
namespace {

// The `count` indices with the largest values; among equal ones the lower. Ascending.
std::vector<int> Largest(const std::vector<double>& values, int count) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<double> Softmax(std::vector<double> x) {
  const double max = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& e : x) sum += e = std::exp(e - max);
  for (double& e : x) e /= sum;
  return x;
}

}  // namespace

SparqResult Sparq(const Matrix& q, const Matrix& k, const Matrix& rank_keys, const Matrix& v, double scale,
                  const SparqSettings& settings) {
  const int group = static_cast<int>(q.rows), positions = static_cast<int>(k.rows);
  SparqResult result;
  std::vector<double> magnitudes(q.cols);
  for (int h = 0; h < group; ++h) {
    for (int64_t d = 0; d < q.cols; ++d) magnitudes[d] += std::abs(q.at(h, d));
  }
  result.dims = Largest(magnitudes, settings.rank);
  std::vector<double> sums(positions);
  for (int h = 0; h < group; ++h) {
    double all = 0, chosen = 0;
    for (int64_t d = 0; d < q.cols; ++d) all += std::abs(q.at(h, d));
    for (const int d : result.dims) chosen += std::abs(q.at(h, d));
    result.tau.push_back(std::sqrt(static_cast<double>(q.cols) * chosen / all));
    std::vector<double> logits(positions);
    for (int j = 0; j < positions; ++j) {
      for (const int d : result.dims) logits[j] += static_cast<double>(q.at(h, d)) * rank_keys.at(j, d);
      logits[j] /= result.tau[h];
    }
    result.logits.push_back(logits);
    result.weights.push_back(Softmax(logits));
    // One head needs no agreement: softmax keeps the order of its logits.
    const bool by_logits = settings.sum_logits || group == 1;
    for (int j = 0; j < positions; ++j) sums[j] += by_logits ? logits[j] : result.weights[h][j];
  }

  const bool dense = positions <= settings.top_k;
  if (dense) {
    result.picks.resize(positions);
    std::iota(result.picks.begin(), result.picks.end(), 0);
  } else {
    const int others = positions - settings.local_window;
    result.picks = Largest({sums.begin(), sums.begin() + others}, settings.top_k - settings.local_window);
    for (int j = others; j < positions; ++j) result.picks.push_back(j);
  }

  result.out = Matrix(group, v.cols);
  for (int h = 0; h < group; ++h) {
    double alpha = 0;
    for (const int j : result.picks) alpha += result.weights[h][j];
    result.alpha.push_back(dense ? 1.0 : alpha);
    std::vector<double> scores;
    for (const int j : result.picks) {
      double score = 0;
      for (int64_t d = 0; d < q.cols; ++d) score += static_cast<double>(q.at(h, d)) * k.at(j, d);
      scores.push_back(score * scale);
    }
    const std::vector<double> weights = Softmax(scores);
    for (int64_t i = 0; i < v.cols; ++i) {
      double mix = 0, mean = 0;
      for (size_t p = 0; p < weights.size(); ++p) mix += weights[p] * v.at(result.picks[p], i);
      for (int j = 0; j < positions; ++j) mean += v.at(j, i);
      mean /= positions;
      const double share = settings.mean_value ? result.alpha[h] : 1.0;
      result.out.at(h, i) = static_cast<float>(share * mix + (1 - share) * mean);
    }
  }
  return result;
}

}  // namespace kvasir::reference
