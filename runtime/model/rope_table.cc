#include "runtime/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/parallel.h"

namespace kvasir {
namespace {

constexpr double kPi = 3.14159265358979323846;

double Llama3Frequency(const RopeSpec& rope, double frequency) {
  const double wavelength = 2.0 * kPi / frequency;  // in positions
  const double original = rope.original_max_positions;
  if (wavelength > original / rope.low_freq_factor) return frequency / rope.factor;
  if (wavelength < original / rope.high_freq_factor) return frequency;
  const double kept = (original / wavelength - rope.low_freq_factor) /
                      (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - kept) * frequency / rope.factor + kept * frequency;
}

// The pair whose angle turns `rotations` times over the original context.
double YarnPair(const RopeSpec& rope, double rotations) {
  return rope.rotary_dim * std::log(rope.original_max_positions / (rotations * 2.0 * kPi)) /
         (2.0 * std::log(static_cast<double>(rope.theta)));
}

// 1: the pair's frequency is divided by the factor; 0: it stays.
double YarnShare(const RopeSpec& rope, int pair) {
  double low = YarnPair(rope, rope.beta_fast);
  double high = YarnPair(rope, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rope.rotary_dim - 1.0);
  if (low == high) high += 0.001;
  return std::clamp((pair - low) / (high - low), 0.0, 1.0);
}

}  // namespace

std::vector<float> RopeInverseFrequencies(const RopeSpec& rope, bool long_context) {
  using Scaling = RopeSpec::Scaling;
  const int dim = rope.rotary_dim;
  double theta = rope.theta;
  if (rope.scaling == Scaling::kDynamic) {
    theta *= std::pow(static_cast<double>(rope.alpha), dim / (dim - 2.0));
  }
  // Of kProportional, the others stand still.
  const int turning = rope.scaling == Scaling::kProportional
                          ? static_cast<int>(rope.rotated_share * static_cast<float>(dim) / 2)
                          : dim / 2;
  std::vector<float> frequencies(dim / 2, 0.0f);
  for (int i = 0; i < turning; ++i) {
    double frequency = std::pow(theta, -2.0 * i / dim);
    switch (rope.scaling) {
      case Scaling::kNone:
      case Scaling::kDynamic:
        break;
      case Scaling::kLinear:
      case Scaling::kProportional:
        frequency /= rope.factor;
        break;
      case Scaling::kLlama3:
        frequency = Llama3Frequency(rope, frequency);
        break;
      case Scaling::kYarn: {
        const double share = YarnShare(rope, i);
        frequency = frequency / rope.factor * share + frequency * (1.0 - share);
        break;
      }
      case Scaling::kLongRope:
        frequency /= (long_context ? rope.long_divisors : rope.short_divisors)[i];
        break;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

RopeTable::RopeTable(const RopeSpec& rope, int max_positions, bool long_context)
    : rotary_dim_(rope.rotary_dim),
      max_positions_(max_positions),
      cos_(static_cast<size_t>(max_positions) * (rope.rotary_dim / 2)),
      sin_(static_cast<size_t>(max_positions) * (rope.rotary_dim / 2)) {
  const std::vector<float> frequencies = RopeInverseFrequencies(rope, long_context);
  const size_t half = frequencies.size();
  const double scale = rope.attention_factor;
  // A context of 128k positions needs millions of cosines: worth all cores, in pieces that are not
  // too small.
  constexpr size_t kPositionsPerTask = 1024;
  const size_t positions = static_cast<size_t>(max_positions);
  ParallelFor((positions + kPositionsPerTask - 1) / kPositionsPerTask, [&](size_t task, int) {
    const size_t end = std::min(positions, (task + 1) * kPositionsPerTask);
    for (size_t position = task * kPositionsPerTask; position < end; ++position) {
      for (size_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position) * frequencies[i];
        cos_[position * half + i] =
            static_cast<float>(scale * std::cos(static_cast<double>(angle)));
        sin_[position * half + i] =
            static_cast<float>(scale * std::sin(static_cast<double>(angle)));
      }
    }
  });
}

}  // namespace kvasir
