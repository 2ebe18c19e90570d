#include "runtime/formats/tensor_type.h"

#include "absl/strings/str_cat.h"

namespace kvasir {
namespace {

using T = TensorType;

constexpr TensorTypeInfo kTypes[] = {
    {T::kF32, "F32", 1, 4},
    {T::kF16, "F16", 1, 2},
    {T::kQ4_0, "Q4_0", 32, 18},
    {T::kQ4_1, "Q4_1", 32, 20},
    {T::kQ5_0, "Q5_0", 32, 22},
    {T::kQ5_1, "Q5_1", 32, 24},
    {T::kQ8_0, "Q8_0", 32, 34},
    {T::kQ8_1, "Q8_1", 32, 36},
    {T::kQ2_K, "Q2_K", 256, 84},
    {T::kQ3_K, "Q3_K", 256, 110},
    {T::kQ4_K, "Q4_K", 256, 144},
    {T::kQ5_K, "Q5_K", 256, 176},
    {T::kQ6_K, "Q6_K", 256, 210},
    {T::kQ8_K, "Q8_K", 256, 292},
    {T::kIQ2_XXS, "IQ2_XXS", 256, 66},
    {T::kIQ2_XS, "IQ2_XS", 256, 74},
    {T::kIQ3_XXS, "IQ3_XXS", 256, 98},
    {T::kIQ1_S, "IQ1_S", 256, 50},
    {T::kIQ4_NL, "IQ4_NL", 32, 18},
    {T::kIQ3_S, "IQ3_S", 256, 110},
    {T::kIQ2_S, "IQ2_S", 256, 82},
    {T::kIQ4_XS, "IQ4_XS", 256, 136},
    {T::kI8, "I8", 1, 1},
    {T::kI16, "I16", 1, 2},
    {T::kI32, "I32", 1, 4},
    {T::kI64, "I64", 1, 8},
    {T::kF64, "F64", 1, 8},
    {T::kIQ1_M, "IQ1_M", 256, 56},
    {T::kBF16, "BF16", 1, 2},
    {T::kTQ1_0, "TQ1_0", 256, 54},
    {T::kTQ2_0, "TQ2_0", 256, 66},
    {T::kMXFP4, "MXFP4", 32, 17},
    {T::kNVFP4, "NVFP4", 64, 36},
    {T::kQ1_0, "Q1_0", 128, 18},
    {T::kQ2_0, "Q2_0", 64, 18},
};

// ik_llama.cpp's own types: 133 to 157 (Q6_0, IQ2_K ... IQ4_KT), 200 and above (rows interleaved
// for one CPU).
bool IsIkOnly(uint32_t id) { return (id >= 133 && id <= 157) || (id >= 200 && id < 1000); }

}  // namespace

std::optional<TensorTypeInfo> FindTensorType(uint32_t id) {
  for (const TensorTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == id) return info;
  }
  return std::nullopt;
}

absl::Status UnknownTensorType(uint32_t id) {
  if (IsIkOnly(id)) {
    return absl::UnimplementedError(
        absl::StrCat("type ", id,
                     " exists in ik_llama.cpp only; take a file made by llama.cpp, or requantise "
                     "the original to Q4_K, Q6_K or Q8_0"));
  }
  if (id == 4 || id == 5 || (id >= 31 && id <= 33) || (id >= 36 && id <= 38)) {
    return absl::UnimplementedError(
        absl::StrCat("type ", id,
                     " is a layout that llama.cpp has withdrawn (id 36 also marks ik_llama.cpp's "
                     "I2_S); requantise the original, for instance to Q4_0"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("type ", id, " is unknown; the file is damaged, or newer than this reader"));
}

}  // namespace kvasir
