// One weight matrix, or a stack of them, whose values stand in several tensors of a checkpoint:
// codes, scales, zero points. A reader brings its rows into one of the block formats
// (runtime/formats/weight_format.h), at the file's number of bits.
//
// Readers borrow the checkpoint's bytes. Immutable, thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/formats/weight_format.h"

namespace kvasir {

class RowReader {
 public:
  virtual ~RowReader() = default;

  // Writes row `row` of [0, stack * rows) as RowBytes(format, cols) bytes. False: it holds a number
  // that is none (NaN).
  virtual bool Read(int64_t row, uint8_t* out) const = 0;

  WeightFormat format = WeightFormat::kInt4Group32;
  int64_t stack = 1;
  int64_t rows = 0;
  int64_t cols = 0;
  // How models name the values: [rows, cols], or with a stack [stack, rows, cols] or, transposed,
  // [stack, cols, rows].
  std::vector<int64_t> shape;
  bool transposed = false;
  float factor = 1;  // of all values, not in what Read writes
  // [cols] or empty: column c of what Read writes belongs to input input_order[c].
  std::vector<int32_t> input_order;
};

}  // namespace kvasir
