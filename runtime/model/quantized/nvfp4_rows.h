// Matrices in NVFP4: pairs of codes of type E2M1, the lower half first, U8 [rows, inputs / 2],
// scales of type E4M3, [rows, inputs / 16], and one number for the whole matrix, F32.
// compressed-tensors calls them NAME.weight_packed, NAME.weight_scale and NAME.weight_global_scale,
// by which values are divided; Model Optimizer NAME.weight, NAME.weight_scale and
// NAME.weight_scale_2, by which they are multiplied.
//
// Pure functions, thread safe; readers borrow the tensors' bytes.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "runtime/model/quantized/row_reader.h"
#include "runtime/model/quantized/tensor_bytes.h"

namespace kvasir {

// `divides`: values are divided by the number in `whole`. InvalidArgument, naming the tensor.
absl::StatusOr<std::unique_ptr<RowReader>> ReadNvfp4(const TensorBytes& codes,
                                                     const TensorBytes& scales,
                                                     const TensorBytes& whole, bool divides);

}  // namespace kvasir
