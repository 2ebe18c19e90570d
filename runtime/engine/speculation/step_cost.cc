#include "runtime/engine/speculation/step_cost.h"

#include <algorithm>
#include <bit>

namespace kvasir {
namespace {

// Weight of the newest step: contexts grow and neighbours come and go, so old steps say little.
constexpr double kNewest = 0.2;
// A step counts as at most this many times what was expected.
constexpr double kMaxSurprise = 2;
// Without any measurement, a drafted token costs this part of what a sequence costs: small enough
// that a first try is made.
constexpr double kGuess = 0.1;
// Steps with drafts between two without, while drafts pay all the time: costs a percent of the
// gain.
constexpr int32_t kMaxDrafted = 64;

// 0, 1, 2, 3-4, 5-8, ...
int Bucket(int32_t count, int buckets) {
  if (count <= 0) return 0;
  const int width = static_cast<int>(std::bit_width(static_cast<uint32_t>(count - 1)));
  return std::min(1 + width, buckets - 1);
}

}  // namespace

void StepCost::Observe(int32_t sequences, int32_t drafted, double seconds) {
  if (sequences < 1) return;
  Row& row = rows_[Bucket(sequences, kRows + 1) - 1];
  row.has_plain |= drafted == 0;
  row.drafted_since_plain = drafted == 0 ? 0 : row.drafted_since_plain + 1;
  if (!(seconds > 0)) return;
  Cell& cell = row.cells[Bucket(drafted, kCells)];
  if (cell.seconds == 0) {
    if (row.cells[0].seconds > 0)
      seconds = std::min(seconds, kMaxSurprise * Predict(sequences, drafted));
    cell = {seconds, static_cast<double>(drafted)};
    return;
  }
  seconds = std::min(seconds, kMaxSurprise * cell.seconds);
  cell.seconds += kNewest * (seconds - cell.seconds);
  cell.drafted += kNewest * (drafted - cell.drafted);
}

bool StepCost::WantsPlainStep(int32_t sequences) const {
  const Row& row = rows_[Bucket(std::max(sequences, 1), kRows + 1) - 1];
  return !row.has_plain || row.drafted_since_plain >= kMaxDrafted;
}

double StepCost::Predict(int32_t sequences, int32_t drafted) const {
  const auto& row = rows_[Bucket(std::max(sequences, 1), kRows + 1) - 1].cells;
  const double guess = 1 + kGuess * drafted / std::max(sequences, 1);
  // Times of drafts alone cannot be compared with those of none.
  if (row[0].seconds == 0) return guess;
  const Cell* below = &row[0];
  const Cell* above = nullptr;
  for (const Cell& cell : row) {
    if (cell.seconds == 0) continue;
    if (cell.drafted <= drafted) {
      below = &cell;
    } else if (above == nullptr) {
      above = &cell;
    }
  }
  const double plain = row[0].seconds;
  if (above != nullptr) {
    const double share = (drafted - below->drafted) / (above->drafted - below->drafted);
    return below->seconds + share * (above->seconds - below->seconds);
  }
  if (below == &row[0]) return plain * guess;
  const double slope = std::max(0.0, (below->seconds - plain) / below->drafted);
  return below->seconds + slope * (drafted - below->drafted);
}

}  // namespace kvasir
