#include "runtime/formats/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "runtime/formats/block_writer.h"

namespace kvasir {
namespace {

constexpr int kMaxGroup = 128;

// To nearest, ties to even; |x| < 2^22. Two additions that compilers turn into vectors.
inline float Round(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

// As the f16 that blocks store; huge ones as the largest.
float AsF16(float scale) { return ToFloat(ToF16(std::clamp(scale, -65504.0f, 65504.0f))); }

void StoreF16(float value, uint8_t* to) {
  const f16 half = ToF16(std::clamp(value, -65504.0f, 65504.0f));
  std::memcpy(to, &half, sizeof(half));
}

// 1 / x, or 0 where there is none.
float Inverse(float x) {
  const float inverse = 1.0f / x;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// With q in [-8, 7] nearest to x * inverse_scale: sums of x^2 x q and x^2 q^2. The scale that suits
// these codes best is their quotient, and leaves an error of sum x^4 - along^2 / square.
struct Fit {
  float along = 0;
  float square = 0;
};

Fit FitCodes(const float* x, int count, float inverse_scale) {
  // Eight sums, so that the additions do not wait for each other.
  float along[8] = {}, square[8] = {};
  for (int begin = 0; begin < count; begin += 8) {
    for (int i = 0; i < 8; ++i) {
      const float value = x[begin + i];
      const float q = std::min(7.0f, std::max(-8.0f, Round(value * inverse_scale)));
      const float weighted = value * value * q;
      along[i] += weighted * value;
      square[i] += weighted * q;
    }
  }
  Fit fit;
  for (int i = 0; i < 8; ++i) {
    fit.along += along[i];
    fit.square += square[i];
  }
  return fit;
}

// Codes of x in [0, 15], 8 = zero, and their scale, an f16. The largest magnitude gets the side
// that has one code more.
float Int4Codes(const float* x, int count, uint8_t* codes) {
  float largest = 0;
  for (int i = 0; i < count; ++i) {
    if (std::abs(x[i]) > std::abs(largest)) largest = x[i];
  }
  float best_scale = 0, best_gain = 0;
  constexpr int kTries = 15;
  for (int t = 0; t < kTries && largest != 0; ++t) {
    const float steps = 6.6f + 0.2f * static_cast<float>(t);  // 6.6 to 9.4
    const Fit fit = FitCodes(x, count, Inverse(largest / -steps));
    if (fit.square > 0 && fit.along * fit.along > best_gain * fit.square) {
      best_gain = fit.along * fit.along / fit.square;
      best_scale = fit.along / fit.square;
    }
  }
  // Squares of numbers below 1e-10 vanish: the plain scale for them.
  const float scale = AsF16(best_scale != 0 ? best_scale : largest / -8);
  const float inverse = Inverse(scale);
  for (int i = 0; i < count; ++i) {
    const float q = std::clamp(Round(std::clamp(x[i] * inverse, -100.0f, 100.0f)), -8.0f, 7.0f);
    codes[i] = static_cast<uint8_t>(static_cast<int>(q) + 8);
  }
  return scale;
}

// --- With a zero point: x = scale * (code - zero), code and zero in [0, 15] ---

struct Int4Grid {
  float scale = 0;
  float zero = 0;
};

// With q in [-zero, 15 - zero] nearest to x * inverse_scale: sums of x q and q^2.
Fit FitZeroCodes(const float* x, int count, float inverse_scale, float zero) {
  float along[8] = {}, square[8] = {};
  for (int begin = 0; begin < count; begin += 8) {
    for (int i = 0; i < 8; ++i) {
      const float value = x[begin + i];
      const float q = std::min(15.0f - zero, std::max(-zero, Round(value * inverse_scale)));
      along[i] += value * q;
      square[i] += q * q;
    }
  }
  Fit fit;
  for (int i = 0; i < 8; ++i) {
    fit.along += along[i];
    fit.square += square[i];
  }
  return fit;
}

// The grid of the least squared error among several steps between the smallest and the largest
// value, with the zero point where it falls and one beside it on each side.
Int4Grid FitGrid(const float* x, int count) {
  const float low = std::min(0.0f, *std::min_element(x, x + count));
  const float high = std::max(0.0f, *std::max_element(x, x + count));
  Int4Grid best;
  float best_gain = 0;
  constexpr int kTries = 8;
  for (int t = 0; t < kTries && high > low; ++t) {
    const float inverse = Inverse((high - low) / (12.5f + 0.45f * static_cast<float>(t)));
    const float middle = Round(std::min(-low * inverse, 15.0f));
    for (const float zero : {middle - 1, middle, middle + 1}) {
      if (zero < 0 || zero > 15) continue;
      const Fit fit = FitZeroCodes(x, count, inverse, zero);
      if (fit.square > 0 && fit.along * fit.along > best_gain * fit.square) {
        best_gain = fit.along * fit.along / fit.square;
        best = {fit.along / fit.square, zero};
      }
    }
  }
  // Squares of numbers below 1e-19 vanish: the plain grid for them.
  if (best.scale == 0)
    best = {(high - low) / 15, Round(std::min(-low * Inverse((high - low) / 15), 15.0f))};
  best.scale = AsF16(best.scale);
  return best;
}

void QuantizeInt4Zero(const WeightFormatInfo& info, const float* x, uint8_t* block) {
  const int count = info.group_elements;
  const Int4Grid grid = FitGrid(x, count);
  const float inverse = Inverse(grid.scale);
  uint8_t codes[kMaxGroup];
  for (int i = 0; i < count; ++i) {
    const float q = Round(std::clamp(x[i] * inverse, -100.0f, 100.0f)) + grid.zero;
    codes[i] = static_cast<uint8_t>(std::clamp(q, 0.0f, 15.0f));
  }
  WriteGroup(info, grid.scale, static_cast<uint8_t>(grid.zero), codes, block);
}

void QuantizeQ8_0(const float* x, uint8_t* block) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
  const float scale = AsF16(largest / 127);
  StoreF16(scale, block);
  const float inverse = Inverse(scale);
  for (int i = 0; i < 32; ++i) {
    const float q = std::clamp(x[i] * inverse, -127.0f, 127.0f);
    block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(Round(q)));
  }
}

// --- Q4_K: x = scale * code - min, code in [0, 15], scale and min at least 0 ---

struct ScaleAndMin {
  float scale = 0;
  float min = 0;
};

// Weighted least squares over scale and min, for the codes that several first scales give.
ScaleAndMin FitScaleAndMin(const float* x, int count) {
  const float low = std::min(0.0f, *std::min_element(x, x + count));
  const float high = std::max(0.0f, *std::max_element(x, x + count));
  ScaleAndMin best{(high - low) / 15, -low};
  if (high == low) return {0, -low};
  double best_error = INFINITY;
  for (int t = 0; t <= 10; ++t) {
    const float inverse = Inverse((high - low) / (13.5f + 0.25f * static_cast<float>(t)));
    double w = 0, wq = 0, wqq = 0, wx = 0, wqx = 0, wxx = 0;
    for (int i = 0; i < count; ++i) {
      const double q = std::clamp(Round((x[i] - low) * inverse), 0.0f, 15.0f);
      const double weight = std::abs(x[i]) + 1e-3 * (high - low);
      w += weight;
      wq += weight * q;
      wqq += weight * q * q;
      wx += weight * x[i];
      wqx += weight * q * x[i];
      wxx += weight * x[i] * x[i];
    }
    const double determinant = w * wqq - wq * wq;
    if (!(determinant > 0)) continue;
    double scale = (w * wqx - wq * wx) / determinant;
    double min = (wq * wqx - wqq * wx) / determinant;
    if (min < 0) {
      min = 0;
      scale = wqx / wqq;
    }
    if (!(scale > 0)) continue;
    const double error = wxx + scale * scale * wqq + min * min * w - 2 * scale * wqx +
                         2 * min * wx - 2 * scale * min * wq;
    if (error < best_error) {
      best_error = error;
      best = {static_cast<float>(scale), static_cast<float>(min)};
    }
  }
  return best;
}

void QuantizeQ4K(const float* x, uint8_t* block) {
  constexpr int kGroups = 8, kGroup = 32;
  ScaleAndMin fits[kGroups];
  float largest_scale = 0, largest_min = 0;
  for (int g = 0; g < kGroups; ++g) {
    fits[g] = FitScaleAndMin(x + g * kGroup, kGroup);
    largest_scale = std::max(largest_scale, fits[g].scale);
    largest_min = std::max(largest_min, fits[g].min);
  }
  const float d = AsF16(largest_scale / 63), dmin = AsF16(largest_min / 63);
  std::memset(block, 0, 144);
  StoreF16(d, block);
  StoreF16(dmin, block + 2);
  uint8_t codes[256];
  for (int g = 0; g < kGroups; ++g) {
    const auto six_bits = [](float value, float unit) {
      return static_cast<uint8_t>(std::clamp(Round(value * Inverse(unit)), 0.0f, 63.0f));
    };
    const uint8_t scale = six_bits(fits[g].scale, d), min = six_bits(fits[g].min, dmin);
    uint8_t* packed = block + 4;
    if (g < 4) {
      packed[g] = static_cast<uint8_t>(packed[g] | scale);
      packed[g + 4] = static_cast<uint8_t>(packed[g + 4] | min);
    } else {
      packed[g + 4] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
      packed[g - 4] = static_cast<uint8_t>(packed[g - 4] | scale >> 4 << 6);
      packed[g] = static_cast<uint8_t>(packed[g] | min >> 4 << 6);
    }
    const float step = d * static_cast<float>(scale), offset = dmin * static_cast<float>(min);
    const float inverse = Inverse(step);
    for (int i = 0; i < kGroup; ++i) {
      const float q = std::clamp((x[g * kGroup + i] + offset) * inverse, 0.0f, 15.0f);
      codes[g * kGroup + i] = static_cast<uint8_t>(Round(q));
    }
  }
  for (int pair = 0; pair < 4; ++pair) PackNibbles(codes + 64 * pair, 32, block + 16 + 32 * pair);
}

void QuantizeBlock(const WeightFormatInfo& info, const float* x, uint8_t* block) {
  switch (info.format) {
    case WeightFormat::kQ8_0:
      return QuantizeQ8_0(x, block);
    case WeightFormat::kQ4_K:
      return QuantizeQ4K(x, block);
    default:
      break;
  }
  if (info.has_zero_points) return QuantizeInt4Zero(info, x, block);
  uint8_t codes[kMaxGroup];
  const float scale = Int4Codes(x, info.block_elements, codes);
  if (info.format == WeightFormat::kQ4_0) {
    StoreF16(scale, block);
    PackNibbles(codes, 16, block + 2);
  } else {
    WriteGroup(info, scale, 8, codes, block);
  }
}

}  // namespace

bool CanQuantizeTo(WeightFormat format) {
  switch (format) {
    case WeightFormat::kInt4Group32:
    case WeightFormat::kInt4Group64:
    case WeightFormat::kInt4Group128:
    case WeightFormat::kInt4Zero32:
    case WeightFormat::kInt4Zero64:
    case WeightFormat::kInt4Zero128:
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ8_0:
      return true;
    default:
      return false;
  }
}

void QuantizeRow(WeightFormat format, const float* x, int64_t cols, uint8_t* out) {
  const WeightFormatInfo& info = Info(format);
  KVASIR_CHECK(CanQuantizeTo(format) && cols % info.block_elements == 0);
  for (int64_t begin = 0; begin < cols; begin += info.block_elements) {
    float values[kMaxBlockElements];
    for (int i = 0; i < info.block_elements; ++i) {
      values[i] = std::isfinite(x[begin + i]) ? x[begin + i] : 0.0f;
    }
    QuantizeBlock(info, values, out);
    out += info.block_bytes;
  }
}

}  // namespace kvasir
