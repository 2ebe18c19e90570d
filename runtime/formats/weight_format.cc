#include "runtime/formats/weight_format.h"

#include "base/check.h"

namespace kvasir {
namespace {

using F = WeightFormat;

// Sixteen levels spaced as a normal distribution's (llama.cpp's kvalues_iq4nl).
constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};
// E2M1 (OCP Microscaling Formats 1.0), doubled.
constexpr int8_t kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// clang-format off
constexpr WeightFormatInfo kFormats[] = {
    // format, name, elements, bytes, bits, group, zero, table, two-level, mins, zero points, wide, e4m3
    {F::kF32, "f32", 1, 4},
    {F::kBf16, "bf16", 1, 2},
    {F::kF16, "f16", 1, 2},
    {F::kQ8_0, "q8_0", 32, 34, 8, 32, 128},  // stored signed; the code is that plus 128
    {F::kQ4_0, "q4_0", 32, 18, 4, 32, 8},
    {F::kQ4_1, "q4_1", 32, 20, 4, 32, 0, nullptr, false, true},
    {F::kQ5_0, "q5_0", 32, 22, 5, 32, 16},
    {F::kQ5_1, "q5_1", 32, 24, 5, 32, 0, nullptr, false, true},
    {F::kIQ4_NL, "iq4_nl", 32, 18, 4, 32, 0, kIq4Levels},
    {F::kMXFP4, "mxfp4", 32, 17, 4, 32, 0, kE2m1Doubled},
    {F::kNVFP4, "nvfp4", 64, 36, 4, 16, 0, kE2m1Doubled},
    {F::kQ2_K, "q2_k", 256, 84, 2, 16, 0, nullptr, true, true},
    {F::kQ3_K, "q3_k", 256, 110, 3, 16, 4, nullptr, true},
    {F::kQ4_K, "q4_k", 256, 144, 4, 32, 0, nullptr, true, true},
    {F::kQ5_K, "q5_k", 256, 176, 5, 32, 0, nullptr, true, true},
    {F::kQ6_K, "q6_k", 256, 210, 6, 16, 32, nullptr, true},
    {F::kIQ4_XS, "iq4_xs", 256, 136, 4, 32, 0, kIq4Levels, true},
    {F::kInt4Group32, "int4_32", 32, 18, 4, 32, 8},
    {F::kInt4Group64, "int4_64", 64, 34, 4, 64, 8},
    {F::kInt4Group128, "int4_128", 128, 66, 4, 128, 8},
    {F::kInt4Zero32, "int4_zero_32", 32, 19, 4, 32, 0, nullptr, false, false, true},
    {F::kInt4Zero64, "int4_zero_64", 64, 35, 4, 64, 0, nullptr, false, false, true},
    {F::kInt4Zero128, "int4_zero_128", 128, 67, 4, 128, 0, nullptr, false, false, true},
    {F::kInt4Wide32, "int4_wide_32", 32, 21, 4, 32, 0, nullptr, false, false, true, true},
    {F::kInt4Wide64, "int4_wide_64", 64, 37, 4, 64, 0, nullptr, false, false, true, true},
    {F::kInt4Wide128, "int4_wide_128", 128, 69, 4, 128, 0, nullptr, false, false, true, true},
    {F::kInt8Group128, "int8_128", 128, 132, 8, 128, 128, nullptr, false, false, false, true},
    {F::kE4m3Group128, "fp8_e4m3", 128, 132, 8, 128, 0, nullptr, false, false, false, true, true},
};
// clang-format on

}  // namespace

const WeightFormatInfo& Info(WeightFormat format) {
  const WeightFormatInfo& info = kFormats[static_cast<size_t>(format)];
  KVASIR_CHECK(info.format == format);
  return info;
}

std::optional<WeightFormat> ToWeightFormat(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return F::kF32;
    case TensorType::kBF16:
      return F::kBf16;
    case TensorType::kF16:
      return F::kF16;
    case TensorType::kQ8_0:
      return F::kQ8_0;
    case TensorType::kQ4_0:
      return F::kQ4_0;
    case TensorType::kQ4_1:
      return F::kQ4_1;
    case TensorType::kQ5_0:
      return F::kQ5_0;
    case TensorType::kQ5_1:
      return F::kQ5_1;
    case TensorType::kIQ4_NL:
      return F::kIQ4_NL;
    case TensorType::kMXFP4:
      return F::kMXFP4;
    case TensorType::kNVFP4:
      return F::kNVFP4;
    case TensorType::kQ2_K:
      return F::kQ2_K;
    case TensorType::kQ3_K:
      return F::kQ3_K;
    case TensorType::kQ4_K:
      return F::kQ4_K;
    case TensorType::kQ5_K:
      return F::kQ5_K;
    case TensorType::kQ6_K:
      return F::kQ6_K;
    case TensorType::kIQ4_XS:
      return F::kIQ4_XS;
    default:
      return std::nullopt;
  }
}

}  // namespace kvasir
