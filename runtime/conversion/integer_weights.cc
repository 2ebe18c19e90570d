#include "runtime/conversion/integer_weights.h"

#include <algorithm>
#include <cmath>

#include "base/bf16.h"
#include "base/parallel.h"

namespace kvasir {
namespace {

int Code(float value, float scale, int bits) {
  const int limit = 1 << (bits - 1);
  if (!(scale > 0) || !std::isfinite(value)) return 0;
  return static_cast<int>(std::lround(
      std::clamp(value / scale, -static_cast<float>(limit), static_cast<float>(limit - 1))));
}

// Clipping the largest values may cost less than spreading all the others: tried in steps, from
// the scale at which nothing is clipped.
bf16 BestScale(const float* x, int64_t count, int bits) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (std::isfinite(x[i])) largest = std::max(largest, std::abs(x[i]));
  }
  const float whole = largest / static_cast<float>((1 << (bits - 1)) - 1);
  // Of eight bits, clipping never pays.
  const int steps = bits == 8 ? 1 : 12;
  bf16 best = ToBf16(whole);
  double best_error = HUGE_VAL;
  for (int step = 0; step < steps; ++step) {
    const bf16 scale = ToBf16(whole * (1.0f - 0.025f * static_cast<float>(step)));
    double error = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float value = static_cast<float>(Code(x[i], ToFloat(scale), bits)) * ToFloat(scale);
      error += static_cast<double>(x[i] - value) * (x[i] - value);
    }
    if (error < best_error) {
      best_error = error;
      best = scale;
    }
  }
  return best;
}

}  // namespace

IntegerRows ToIntegers(const IntegerFormat& format, absl::Span<const float> values, int64_t cols) {
  const auto rows = static_cast<int64_t>(values.size()) / cols;
  const int64_t group = format.group == 0 ? cols : format.group;
  const int64_t row_scales = format.scales(cols), row_bytes = format.code_bytes(cols);
  IntegerRows result;
  result.codes.resize(static_cast<size_t>(rows * row_bytes));
  result.scales.resize(static_cast<size_t>(rows * row_scales));
  ParallelFor(static_cast<size_t>(rows), [&](size_t index, int) {
    const auto row = static_cast<int64_t>(index);
    const float* const x = values.data() + row * cols;
    uint8_t* const codes = result.codes.data() + row * row_bytes;
    for (int64_t g = 0; g < row_scales; ++g) {
      const bf16 scale = BestScale(x + g * group, group, format.bits);
      result.scales[row * row_scales + g] = scale.bits;
      for (int64_t i = g * group; i < (g + 1) * group; ++i) {
        const int code = Code(x[i], ToFloat(scale), format.bits);
        if (format.bits == 8) {
          codes[i] = static_cast<uint8_t>(static_cast<int8_t>(code));
        } else {
          codes[i / 2] |= static_cast<uint8_t>((code + 8) << (i % 2 == 0 ? 0 : 4));
        }
      }
    }
  });
  return result;
}

nlohmann::ordered_json QuantizationConfigOf(const IntegerFormat& format,
                                            const std::vector<std::string>& left_out) {
  const bool grouped = format.group > 0;
  nlohmann::ordered_json weights = {
      {"num_bits", format.bits}, {"type", "int"},
      {"symmetric", true},       {"strategy", grouped ? "group" : "channel"},
      {"group_size", nullptr},   {"dynamic", false}};
  if (grouped) weights["group_size"] = format.group;
  // Engines know bytes with bytes only: activations are to be quantised per token.
  nlohmann::ordered_json activations = nullptr;
  if (format.bits == 8) {
    activations = {{"num_bits", 8},       {"type", "int"},         {"symmetric", true},
                   {"strategy", "token"}, {"group_size", nullptr}, {"dynamic", true}};
  }
  return {{"quant_method", "compressed-tensors"},
          {"quantization_status", "compressed"},
          {"format", format.bits == 8 ? "int-quantized" : "pack-quantized"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights", weights},
              {"input_activations", activations},
              {"output_activations", nullptr}}}}},
          {"ignore", left_out}};
}

}  // namespace kvasir
