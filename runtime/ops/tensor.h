// Borrowed views of row-major matrices. Nothing here owns memory; no thread safety of its own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "runtime/formats/weight_format.h"

namespace kvasir {

// Of plain numbers (WeightFormat::kF32, kBf16, kF16).
inline size_t ElementBytes(WeightFormat format) { return format == WeightFormat::kF32 ? 4 : 2; }

// In which arithmetic the products with weights run.
//   kF32:  weights and activations f32: the oracle.
//   kBf16: weights and activations bf16, sums f32.
//   kInt8: weights s8 with one scale per output channel, activations quantised per row to u8, sums
//   s32.
enum class ComputeType { kF32, kBf16, kInt8 };

// A stored matrix or vector, for instance inside a mapped checkpoint. rows x cols, contiguous; may
// be unaligned. Rows of block formats are whole blocks, whose columns may stand in another order
// than the inputs that they are multiplied with, and whose values may share a factor.
struct StoredMatrix {
  const void* data = nullptr;
  WeightFormat type = WeightFormat::kBf16;
  int64_t rows = 0;
  int64_t cols = 0;
  const int32_t* input_order = nullptr;  // [cols]: column c is input input_order[c]'s; null: c's
  float factor = 1;                      // of a block format's values
};

// The values of one row, in the order in which they are stored, [cols].
void StoredRow(const StoredMatrix& matrix, int64_t row, float* out);

// [rows, cols] of f32; row r starts at data + r * stride.
struct MatrixView {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  float* row(int64_t r) const { return data + r * stride; }
};

}  // namespace kvasir
