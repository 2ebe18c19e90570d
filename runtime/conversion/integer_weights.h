// Matrices as integers with scales beside them, in the tensors that compressed-tensors folders have
// (facts of the PyPI package compressed-tensors, 0.12): eight bits with one scale per row
// ("int-quantized"), or four bits with one scale per group of a row ("pack-quantized": eight codes
// of an int32, the first in the low bits, each code plus 8). Symmetric; value = scale * code. Pure
// functions, thread safe.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace kvasir {

struct IntegerFormat {
  int bits = 8;       // 8 or 4
  int64_t group = 0;  // inputs that share a scale, a multiple of 8; 0 = a row

  int64_t code_bytes(int64_t cols) const { return bits == 8 ? cols : cols / 2; }  // of a row
  int64_t scales(int64_t cols) const { return group == 0 ? 1 : cols / group; }    // of a row
};

struct IntegerRows {
  std::vector<uint8_t> codes;    // [rows][code_bytes]
  std::vector<uint16_t> scales;  // [rows][scales]: bf16
};

// values: [rows, cols]; cols a multiple of the group. Of several scales the one with the least
// squared error is taken, as bf16, and codes are rounded by that.
IntegerRows ToIntegers(const IntegerFormat& format, absl::Span<const float> values, int64_t cols);

// config.json's quantization_config; `left_out`: modules that have weights of another type.
nlohmann::ordered_json QuantizationConfigOf(const IntegerFormat& format,
                                            const std::vector<std::string>& left_out);

}  // namespace kvasir
