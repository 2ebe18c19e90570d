// Weights of eight bits, int8 or FP8 E4M3, with scales for the tensor, for its rows, or for blocks
// of it (compressed-tensors, transformers' FP8): value = scale * number.
//
// Pure function, thread safe; readers borrow the tensors' bytes.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "runtime/model/quantized/quantization_config.h"
#include "runtime/model/quantized/row_reader.h"
#include "runtime/model/quantized/tensor_bytes.h"

namespace kvasir {

// `numbers`: NAME.weight of type I8 or F8_E4M3; `scales`: NAME.weight_scale or
// NAME.weight_scale_inv. InvalidArgument or Unimplemented, naming the tensor.
absl::StatusOr<std::unique_ptr<RowReader>> ReadScaledBytes(const QuantizationConfig& config,
                                                           const TensorBytes& numbers,
                                                           const TensorBytes& scales);

}  // namespace kvasir
