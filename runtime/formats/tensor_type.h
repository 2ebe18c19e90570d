// The element types that a GGUF file may name, by the format's own numbers, and how many bytes
// their blocks take. Facts of ggml's type table (llama.cpp b11434). Pure functions, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// Values are the numbers in the file.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
  kQ2_0 = 42,
};

struct TensorTypeInfo {
  TensorType type;
  absl::string_view name;  // "Q4_K"
  int block_elements = 1;  // a row is whole blocks
  int block_bytes = 0;
};

// What `id` means; nullopt when the format gives it no meaning (any more).
std::optional<TensorTypeInfo> FindTensorType(uint32_t id);

// Why an id that FindTensorType does not know is refused, and what to do: withdrawn layouts and the
// types that only ik_llama.cpp writes are named as such. Always an error.
absl::Status UnknownTensorType(uint32_t id);

}  // namespace kvasir
