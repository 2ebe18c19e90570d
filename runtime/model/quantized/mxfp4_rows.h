// Experts of gpt-oss as they are published: NAME_blocks, U8 [experts, rows, inputs / 32, 16], two
// codes of type E2M1 in a byte, the lower half first; NAME_scales, U8 [experts, rows, inputs / 32],
// exponents of type E8M0. Rows are outputs; the model's own name for the values is NAME, [experts,
// inputs, rows].
//
// And the matrices of compressed-tensors (mxfp4-pack-quantized): NAME.weight_packed, U8 [rows,
// inputs / 2], and NAME.weight_scale, U8 [rows, inputs / 32], the same codes and exponents.
//
// Pure functions, thread safe; readers borrow the tensors' bytes.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "runtime/model/quantized/row_reader.h"
#include "runtime/model/quantized/tensor_bytes.h"

namespace kvasir {

// InvalidArgument, naming the tensor.
absl::StatusOr<std::unique_ptr<RowReader>> ReadMxfp4(const TensorBytes& blocks,
                                                     const TensorBytes& scales);

absl::StatusOr<std::unique_ptr<RowReader>> ReadPackedMxfp4(const TensorBytes& codes,
                                                           const TensorBytes& scales);

}  // namespace kvasir
