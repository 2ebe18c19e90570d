#include "runtime/model/random_weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
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

Distribution DistributionOf(const std::string& name, int64_t cols, int num_layers) {
  if (absl::EndsWith(name, "norm.weight")) return {1.0f, 0.1f};
  if (absl::EndsWith(name, ".bias")) return {0.0f, 0.1f};
  if (name == "model.embed_tokens.weight") return {0.0f, 1.0f};
  // A product of unit-variance inputs with weights of variance 1 / cols has unit variance.
  float half_width = std::sqrt(3.0f / static_cast<float>(cols));
  // Each layer adds to the residual stream twice; 2L such sums shall add up to about one.
  if (absl::EndsWith(name, "o_proj.weight") || absl::EndsWith(name, "down_proj.weight")) {
    half_width /= std::sqrt(2.0f * static_cast<float>(num_layers));
  }
  return {0.0f, half_width};
}

}  // namespace

absl::StatusOr<StoredMatrix> RandomWeights::Get(const std::string& name, int64_t rows,
                                                int64_t cols) {
  const Distribution distribution = DistributionOf(name, cols, num_layers_);
  const uint64_t base = Mix(seed_ ^ HashName(name));
  const size_t count = static_cast<size_t>(rows * cols);
  AlignedBuffer<bf16> values(count);
  constexpr size_t kValuesPerTask = size_t{1} << 16;
  ParallelFor((count + kValuesPerTask - 1) / kValuesPerTask, [&](size_t task, int) {
    const size_t end = std::min(count, (task + 1) * kValuesPerTask);
    for (size_t i = task * kValuesPerTask; i < end; ++i) {
      // The top 24 bits, as a float in [-1, 1).
      const float unit = static_cast<float>(Mix(base + i) >> 40) * 0x1p-23f - 1.0f;
      values[i] = ToBf16(distribution.center + distribution.half_width * unit);
    }
  });
  const auto it = tensors_.insert_or_assign(name, std::move(values)).first;
  return StoredMatrix{it->second.data(), DataType::kBf16, rows, cols};
}

}  // namespace kvasir
