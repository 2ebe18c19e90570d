// Integers of four bits in groups, as GPTQ, AWQ and compressed-tensors (pack-quantized) store them:
// value = scale * (code - zero point). Eight codes stand in an int32, in each form in another
// direction and order. GPTQ and compressed-tensors have eight bits too, four codes in an int32, and
// GPTQ two and three, which become codes of four bits with zero points. Eight bits that no block
// format holds (zero points other than the middle, 128; fine scales in small groups) become plain
// numbers of f32.
//
// Pure functions, thread safe; readers borrow the tensors' bytes.
#pragma once

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "runtime/model/quantized/quantization_config.h"
#include "runtime/model/quantized/row_reader.h"
#include "runtime/model/quantized/tensor_bytes.h"

namespace kvasir {

// The tensors of one module NAME.
struct PackedInt4Tensors {
  TensorBytes codes;                          // NAME.qweight, NAME.weight_packed
  TensorBytes scales;                         // NAME.scales, NAME.weight_scale
  std::optional<TensorBytes> zeros;           // NAME.qzeros, NAME.weight_zero_point
  std::optional<TensorBytes> group_of_input;  // NAME.g_idx, NAME.weight_g_idx
  std::optional<TensorBytes> shape;           // NAME.weight_shape
};

// Errors name the tensor: InvalidArgument (shapes or types that contradict each other or `config`,
// groups out of range, an order of inputs that is missing).
absl::StatusOr<std::unique_ptr<RowReader>> ReadPackedInt4(const QuantizationConfig& config,
                                                          const PackedInt4Tensors& tensors);

}  // namespace kvasir
