// Rows of a product as codes of eight bits: what BlockDot and BlockRowsProduct take. For
// runtime/ops/quantized only.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "base/aligned_buffer.h"
#include "runtime/kernels/blocks/block_kernels.h"

namespace kvasir {

// Grows, never shrinks. Not thread safe.
class QuantizedRows {
 public:
  // Row r's values, [in], on compute thread `thread`.
  using RowValues = absl::FunctionRef<const float*(int64_t r, int thread)>;

  // Quantises `rows` rows of `in` values, in parallel; `values` is called once for each. What is
  // returned is valid until the next call.
  QuantizedInputs Set(int64_t rows, int64_t in, RowValues values);

 private:
  AlignedBuffer<int8_t> codes_;  // [rows][in + padding]
  AlignedBuffer<float> scales_;  // [rows][in / 32]
  AlignedBuffer<int32_t> sums_;  // [rows][in / 16]
};

}  // namespace kvasir
