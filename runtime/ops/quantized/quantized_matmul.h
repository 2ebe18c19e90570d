// Linear with block-quantised weights: they stay at their file's number of bits, and no other copy
// exists. Included by matmul.cc and tests only; everyone else uses matmul.h.
//
// Few rows: each panel of 16 outputs is multiplied as it is read, codes against inputs quantised to
// eight bits in groups of 32 (block_kernels.h), or as many rows are, if Warm finds that faster and
// the numbers are the same. Many rows, by CPU:
// - AVX-512 VNNI: the codes of some panels become bytes in a core's cache, a chunk of inputs at a
//   time, and meet all rows (block_rows.h), with the numbers of a row alone.
// - AMX: weights become bf16. Panels of four and five bits are unpacked a chunk at a time, while
//   the chunk before is multiplied (block_tiles.h), others in tiles of 64 outputs in a core's cache
//   (amx_column_kernels.h).
// - Where codes are floating-point numbers and the CPU multiplies bf16: such tiles, by oneDNN.
// - Else panel after panel, as few rows.
// ComputeType::kF32 is exact, whatever the number of rows: weights become f32, a chunk of inputs at
// a time (float_tiles.h).
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

// Up to so many rows are multiplied as codes on every CPU, with the numbers of a row alone.
inline constexpr int64_t kMaxBlockwiseRows = 16;

// Whether all parts are blocks. Parts may differ in format; other mixtures are unpacked at load.
bool IsQuantized(absl::Span<const StoredMatrix> parts);

// Shapes are already checked; `compute_type` as the caller of Linear::Create wants it. Internal
// with oneDNN's message when it refuses; InvalidArgument: a scale is no finite number.
absl::StatusOr<std::unique_ptr<Linear>> CreateQuantizedLinear(absl::Span<const StoredMatrix> parts,
                                                              absl::Span<const StoredMatrix> biases,
                                                              ComputeType compute_type);

}  // namespace kvasir
