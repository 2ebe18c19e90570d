// quantization_config of a Hugging Face folder: in which of the published forms its weights are
// stored. Facts of the packages that write them: GPTQModel and AutoGPTQ, AutoAWQ,
// compressed-tensors, transformers' fine-grained FP8 and MXFP4.
//
// Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

struct QuantizationConfig {
  enum class Method {
    kNone,
    kGptq,
    kAwq,
    kPackedInt4,   // compressed-tensors, pack-quantized
    kScaledBytes,  // int8 or FP8 numbers with scales beside them: compressed-tensors, fp8
    kMxfp4,        // as gpt-oss is published
    kPackedMxfp4,  // compressed-tensors, mxfp4-pack-quantized
    kPackedNvfp4,  // compressed-tensors, nvfp4-pack-quantized
    kNvfp4,        // Model Optimizer's
  };
  Method method = Method::kNone;
  // Of packed integers: the bits of one, 2 (GPTQ), 3 (GPTQ), 4 or 8. Where modules have settings of
  // their own there are several, and a module's tensors say which are its.
  std::vector<int> bits = {4};
  // Inputs that share a scale, one of these; 0 = all inputs of a row. Of packed integers.
  std::vector<int64_t> group_sizes;
  // The order of inputs is stored, and values would be others without it (GPTQ: desc_act;
  // compressed-tensors: actorder by groups).
  bool needs_order = false;
  // GPTQ: zero points are stored less one, as the format's first version has them.
  bool zeros_less_one = false;
  // Scaled bytes: which numbers there are.
  bool has_int8 = false;
  bool has_fp8 = false;
  // Scaled bytes: scales of blocks, [block_rows, block_cols]; 0 = of rows or tensors.
  int64_t block_rows = 0;
  int64_t block_cols = 0;
};

// `config`: a whole config.json. Without the key: kNone. Unimplemented for forms that are not
// served, InvalidArgument for what no writer writes; both name key, value and what is served.
absl::StatusOr<QuantizationConfig> ParseQuantizationConfig(const nlohmann::json& config);

// The same for a folder. Without the key in config.json it looks into quantize_config.json, where
// GPTQ folders have it, and hf_quant_config.json, Model Optimizer's.
absl::StatusOr<QuantizationConfig> LoadQuantizationConfig(const std::string& folder);

}  // namespace kvasir
