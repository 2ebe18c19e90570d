// Wall-clock times of repeated runs, and what a table says of them. Plain functions; thread safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

namespace kvasir::bench {

template <class Run>
double Milliseconds(const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

// The middle of repeated measurements, and how far the middle half of them lies apart as a share of
// it: on a shared machine the extremes tell of the neighbours.
struct Timing {
  double median = 0;
  double spread = 0;
};

inline Timing Summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](size_t quarter) { return values[(values.size() - 1) * quarter / 4]; };
  const double median = values[values.size() / 2];
  return {median, median > 0 ? (at(3) - at(1)) / median : 0};
}

}  // namespace kvasir::bench
