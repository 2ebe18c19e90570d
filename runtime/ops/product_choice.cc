#include "runtime/ops/product_choice.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace kvasir {
namespace {

// After one run of each that warms up. The shortest of these is compared: what disturbs a run only
// makes it longer.
constexpr int kRuns = 3;

// A way must be that much faster than the one it replaces.
constexpr double kFaster = 0.95;

}  // namespace

ProductChoice::ProductChoice(ProductWay few, int64_t most_few, ProductWay many) {
  for (size_t i = 0; i < ways_.size(); ++i) ways_[i] = kMeasuredRows[i] <= most_few ? few : many;
}

size_t ProductChoice::Band(int64_t rows) {
  const auto* const found = std::lower_bound(kMeasuredRows.begin(), kMeasuredRows.end(), rows);
  return std::min<size_t>(found - kMeasuredRows.begin(), kMeasuredRows.size() - 1);
}

ProductChoice MeasureChoice(ProductChoice choice, absl::Span<const ProductWay> ways,
                            int64_t max_rows, double seconds, TimeProduct time) {
  if (ways.size() < 2) return choice;
  double used = 0;
  for (const int64_t rows : kMeasuredRows) {
    if (rows > max_rows || used >= seconds) break;
    const ProductWay held = choice.For(rows);
    std::vector<double> best(ways.size(), std::numeric_limits<double>::infinity());
    for (int run = 0; run <= kRuns; ++run) {
      for (size_t i = 0; i < ways.size(); ++i) {
        const double took = time(ways[i], rows);
        used += took;
        if (run > 0) best[i] = std::min(best[i], took);
      }
    }
    double limit = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < ways.size(); ++i) {
      if (ways[i] == held) limit = best[i] * kFaster;
    }
    const auto fastest = std::min_element(best.begin(), best.end());
    if (*fastest < limit) choice.Set(rows, ways[fastest - best.begin()]);
  }
  return choice;
}

}  // namespace kvasir
