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

SparqResult Sparq(const Matrix& q, const Matrix& k, const Matrix& rank_keys, const Matrix& v,
                  double scale, const SparqSettings& settings) {
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
      for (const int d : result.dims)
        logits[j] += static_cast<double>(q.at(h, d)) * rank_keys.at(j, d);
      logits[j] /= result.tau[h];
    }
    result.logits.push_back(logits);
    result.weights.push_back(Softmax(logits));
    // One head needs no agreement: softmax keeps the order of its logits.
    const bool by_logits = settings.sum_logits || group == 1;
    for (int j = 0; j < positions; ++j) sums[j] += by_logits ? logits[j] : result.weights[h][j];
  }

  const auto mean_mass = [&](const std::vector<int>& picks) {
    double sum = 0;
    for (const int j : picks) {
      for (int h = 0; h < group; ++h) sum += result.weights[h][j];
    }
    return sum / group;
  };
  const bool dense = positions <= settings.top_k;
  if (dense) {
    result.picks.resize(positions);
    std::iota(result.picks.begin(), result.picks.end(), 0);
  } else {
    const int others = positions - settings.local_window;
    const int most =
        settings.least_mass > 0 ? std::min(settings.max_top_k, positions) : settings.top_k;
    for (int top_k = settings.top_k; top_k <= most; ++top_k) {
      result.picks = Largest({sums.begin(), sums.begin() + others}, top_k - settings.local_window);
      for (int j = others; j < positions; ++j) result.picks.push_back(j);
      if (mean_mass(result.picks) >= settings.least_mass) break;
    }
  }
  for (int h = 0; h < group; ++h) {
    double alpha = 0;
    for (const int j : result.picks) alpha += result.weights[h][j];
    result.alpha.push_back(dense ? 1.0 : alpha);
  }
  result.out = AttendToPicks(q, k, v, scale, result.picks, result.alpha, settings);
  return result;
}

Matrix AttendToPicks(const Matrix& q, const Matrix& k, const Matrix& v, double scale,
                     const std::vector<int>& picks, const std::vector<double>& alpha,
                     const SparqSettings& settings) {
  const int group = static_cast<int>(q.rows), positions = static_cast<int>(k.rows);
  const bool all_picked = static_cast<int>(picks.size()) == positions;
  std::vector<bool> in_mean(positions, true);
  if (settings.mean_of_unselected && !all_picked) {
    for (const int j : picks) in_mean[j] = false;
  }
  const double mean_count = std::count(in_mean.begin(), in_mean.end(), true);
  Matrix out(group, v.cols);
  for (int h = 0; h < group; ++h) {
    std::vector<double> scores;
    for (const int j : picks) {
      double score = 0;
      for (int64_t d = 0; d < q.cols; ++d) score += static_cast<double>(q.at(h, d)) * k.at(j, d);
      scores.push_back(score * scale);
    }
    const std::vector<double> weights = Softmax(scores);
    const double share = settings.mean_value && !all_picked ? alpha[h] : 1.0;
    for (int64_t i = 0; i < v.cols; ++i) {
      double mix = 0, mean = 0;
      for (size_t p = 0; p < weights.size(); ++p) mix += weights[p] * v.at(picks[p], i);
      for (int j = 0; j < positions; ++j) mean += in_mean[j] ? v.at(j, i) : 0.0;
      out.at(h, i) = static_cast<float>(share * mix + (1 - share) * mean / mean_count);
    }
  }
  return out;
}

std::vector<int> WindowPicks(int positions, int top_k, int sinks) {
  std::vector<int> picks;
  for (int j = 0; j < positions; ++j) {
    if (j < sinks || j >= positions - (top_k - sinks)) picks.push_back(j);
  }
  return picks;
}

std::vector<int> BlockBoundPicks(const Matrix& q, const Matrix& rank_keys, int top_k,
                                 int local_window, int block_tokens) {
  const int positions = static_cast<int>(rank_keys.rows);
  const int always = (positions - local_window) / block_tokens;
  std::vector<double> bounds(always);
  for (int b = 0; b < always; ++b) {
    for (int64_t d = 0; d < q.cols; ++d) {
      float least = rank_keys.at(b * block_tokens, d), largest = least;
      for (int t = 0; t < block_tokens; ++t) {
        least = std::min(least, rank_keys.at(b * block_tokens + t, d));
        largest = std::max(largest, rank_keys.at(b * block_tokens + t, d));
      }
      for (int64_t h = 0; h < q.rows; ++h) {
        bounds[b] += std::max(static_cast<double>(q.at(h, d)) * least,
                              static_cast<double>(q.at(h, d)) * largest);
      }
    }
  }
  const int room = std::max(0, top_k - (positions - always * block_tokens)) / block_tokens;
  std::vector<int> picks;
  for (const int b : Largest(bounds, std::min(room, always))) {
    for (int t = 0; t < block_tokens; ++t) picks.push_back(b * block_tokens + t);
  }
  for (int j = always * block_tokens; j < positions; ++j) picks.push_back(j);
  const int excess = static_cast<int>(picks.size()) - top_k;
  if (excess > 0) picks.erase(picks.begin(), picks.begin() + excess);
  if (picks.empty()) picks.push_back(positions - 1);
  return picks;
}

}  // namespace kvasir::reference
