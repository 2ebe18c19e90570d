// Block-quantised weights brought from a file's rows into the panels that kernels read
// (runtime/kernels/blocks/block_panel.h), once, at load: the same codes and scales in another
// order, so at the file's number of bits (within 3 %: two-level scales widen from six bits to
// eight).
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/huge_buffer.h"
#include "runtime/kernels/blocks/block_kernels.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// Immutable after PackBlocks; readable from any thread. Move-only.
struct PackedBlocks {
  HugeBuffer data;  // [panels][panel_bytes]
  WeightFormat format = WeightFormat::kQ8_0;
  size_t kind = 0;  // into kBlockKinds
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t panel_bytes = 0;
  float factor = 1;          // of all values; panels have them without it
  int64_t damaged_row = -1;  // one with a scale that is no finite number; -1: there is none

  int64_t num_panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  BlockPanel panel(int64_t index) const;
  // InvalidArgument: there is one. `first_row`: what the message counts from.
  absl::Status Check(int64_t first_row) const;
  // Row `row` as Dequantize gives it (but see BlockUnpack about MXFP4), [cols].
  void ReadRow(int64_t row, float* out) const;
};

// Whether kernels exist for this format: all block formats.
bool HasBlockKernels(WeightFormat format);

// `matrix`: of such a format; cols a multiple of a step (block_panel.h). In parallel over panels;
// pages of a mapped matrix are given back while the rest is packed.
PackedBlocks PackBlocks(const StoredMatrix& matrix);

}  // namespace kvasir
