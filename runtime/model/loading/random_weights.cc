#include "runtime/model/loading/random_weights.h"

#include <algorithm>
#include <cmath>

#include "base/bf16.h"
#include "base/parallel.h"

namespace kvasir {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a counter in, 64 good bits out, so that tasks need no
// shared state.
uint64_t Mix(uint64_t counter) {
  uint64_t z = counter + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t HashName(const std::string& name) {
  uint64_t hash = name.size();
  for (const char c : name) hash = Mix(hash ^ static_cast<uint8_t>(c));
  return hash;
}

struct Distribution {
  float center = 0.0f;
  float half_width =
      1.0f;  // uniform in center +- half_width; standard deviation half_width / sqrt(3)
};

Distribution DistributionOf(const WeightId& id, int64_t cols, int num_layers) {
  if (id.bias) return {0.0f, 0.1f};
  switch (id.role) {
    case WeightRole::kEmbedding:
    case WeightRole::kPerLayerTable:
      return {0.0f, 1.0f};
    case WeightRole::kPositions:
    case WeightRole::kChoiceBias:
    case WeightRole::kSinks:
      return {0.0f, 0.1f};
    default:
      break;
  }
  // Norms and scales.
  if (cols == 1) return {1.0f, 0.1f};
  // A product of unit-variance inputs with weights of variance 1 / cols has unit variance.
  float half_width = std::sqrt(3.0f / static_cast<float>(cols));
  switch (id.role) {
    // Each layer adds to the residual stream twice; 2L such sums shall add up to about one.
    case WeightRole::kOutput:
    case WeightRole::kDeltaOut:
    case WeightRole::kConvOut:
    case WeightRole::kDown:
    case WeightRole::kExpertDown:
    case WeightRole::kSharedDown:
      half_width /= std::sqrt(2.0f * static_cast<float>(num_layers));
      break;
    default:
      break;
  }
  return {0.0f, half_width};
}

}  // namespace

absl::StatusOr<PartValues> RandomWeights::Get(const WeightId& id, const StoredPart& part) {
  const Distribution distribution = DistributionOf(id, part.cols, num_layers_);
  const uint64_t base = Mix(seed_ ^ HashName(part.name));
  const size_t count = static_cast<size_t>(part.rows * part.cols);
  PartValues result;
  result.owned.Resize(count * sizeof(bf16));
  bf16* values = reinterpret_cast<bf16*>(result.owned.data());
  constexpr size_t kValuesPerTask = size_t{1} << 16;
  ParallelFor((count + kValuesPerTask - 1) / kValuesPerTask, [&](size_t task, int) {
    const size_t end = std::min(count, (task + 1) * kValuesPerTask);
    for (size_t i = task * kValuesPerTask; i < end; ++i) {
      const int64_t r = static_cast<int64_t>(i) / part.cols;
      const int64_t row = part.row_order.empty() ? r : part.row_order[r];
      const uint64_t place =
          static_cast<uint64_t>(part.offset + row * part.row_stride +
                                static_cast<int64_t>(i) % part.cols * part.col_stride);
      // The top 24 bits, as a float in [-1, 1).
      const float unit = static_cast<float>(Mix(base + place) >> 40) * 0x1p-23f - 1.0f;
      values[i] = ToBf16(distribution.center + distribution.half_width * unit);
    }
  });
  result.matrix = {result.owned.data(), WeightFormat::kBf16, part.rows, part.cols};
  return result;
}

}  // namespace kvasir
