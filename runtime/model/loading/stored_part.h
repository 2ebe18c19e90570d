// Where a weight's values stand inside one stored tensor. One form covers what checkpoints do to
// the matrices that a decoder multiplies with: rows of several fused into one, interleaved or
// permuted, transposed, stacked over experts, or "1 + weight" left to the reader.
//
//   value(r, c) = stored[offset + row(r) * row_stride + c * col_stride] + add
//
// with row(r) = rows[r], or r where the list is empty. Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

struct StoredPart {
  std::string name;            // of the tensor
  std::vector<int64_t> shape;  // that the tensor must have
  int64_t rows = 0;            // of this part
  int64_t cols = 1;
  int64_t offset = 0;  // in elements, as the strides
  int64_t row_stride = 1;
  int64_t col_stride = 1;
  std::vector<int32_t> row_order;  // [rows] or empty
  float add = 0;
  bool exponential = false;  // exp(value) instead

  // Whether the part is a plain piece of the tensor's bytes, from `offset` on.
  bool contiguous() const {
    return row_order.empty() && add == 0 && !exponential && (col_stride == 1 || cols == 1) &&
           (row_stride == cols || rows == 1);
  }
};

// The part's values [rows, cols] as a matrix of its own: in the stored type, or in f32 where
// something is added. `stored` may be unaligned. `type` is set to the type of the result.
AlignedBuffer<uint8_t> GatherPart(const StoredPart& part, const void* stored, WeightFormat* type);

// A matrix with or without memory of its own.
struct PartValues {
  StoredMatrix matrix;
  AlignedBuffer<uint8_t> owned;  // what `matrix` points to, unless empty
};

}  // namespace kvasir
