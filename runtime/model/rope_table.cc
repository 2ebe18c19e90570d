#include "runtime/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/check.h"
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

}  // namespace

std::vector<float> RopeInverseFrequencies(const RopeSpec& rope) {
  const int rotary_dim = rope.rotary_dim;
  std::vector<float> frequencies(rotary_dim / 2);
  for (int i = 0; i < rotary_dim / 2; ++i) {
    double frequency = std::pow(static_cast<double>(rope.theta), -2.0 * i / rotary_dim);
    switch (rope.scaling) {
      case RopeSpec::Scaling::kNone:
        break;
      case RopeSpec::Scaling::kLinear:
        frequency /= rope.factor;
        break;
      case RopeSpec::Scaling::kLlama3:
        frequency = Llama3Frequency(rope, frequency);
        break;
      default:
        KVASIR_CHECK(false);
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

RopeTable::RopeTable(const RopeSpec& rope, int max_positions)
    : rotary_dim_(rope.rotary_dim),
      max_positions_(max_positions),
      cos_(static_cast<size_t>(max_positions) * (rope.rotary_dim / 2)),
      sin_(static_cast<size_t>(max_positions) * (rope.rotary_dim / 2)) {
  const std::vector<float> frequencies = RopeInverseFrequencies(rope);
  const size_t half = frequencies.size();
  // A context of 128k positions needs millions of cosines: worth all cores, in pieces that are not
  // too small.
  constexpr size_t kPositionsPerTask = 1024;
  const size_t positions = static_cast<size_t>(max_positions);
  ParallelFor((positions + kPositionsPerTask - 1) / kPositionsPerTask, [&](size_t task, int) {
    const size_t end = std::min(positions, (task + 1) * kPositionsPerTask);
    for (size_t position = task * kPositionsPerTask; position < end; ++position) {
      for (size_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position) * frequencies[i];
        cos_[position * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
        sin_[position * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  });
}

}  // namespace kvasir
