// Linear with block-quantised weights: they stay at their file's number of bits, and no other copy
// exists. Included by matmul.cc and tests only; everyone else uses matmul.h.
//
// Few rows: each panel of 16 outputs is multiplied as it is read, codes against inputs quantised to
// eight bits in groups of 32 (block_kernels.h). Many rows: weights become bf16 where the CPU
// multiplies that, and all rows are multiplied with them. On AMX panels of four and five bits are
// unpacked a chunk at a time, while the chunk before is multiplied (block_tiles.h); else a tile of
// 64 outputs is unpacked into a core's cache and multiplied, on AMX by amx_column_kernels.h,
// elsewhere by oneDNN. Where the CPU does not multiply bf16, weights become f32, a chunk of inputs
// at a time (float_tiles.h). ComputeType::kF32 is exact: f32, whatever the number of rows.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

// Up to so many rows are multiplied as they are read.
inline constexpr int64_t kMaxBlockwiseRows = 16;

// Whether all parts are blocks. Parts may differ in format; other mixtures are unpacked at load.
bool IsQuantized(absl::Span<const StoredMatrix> parts);

// Shapes are already checked; `compute_type` as the caller of Linear::Create wants it. Internal
// with oneDNN's message when it refuses.
absl::StatusOr<std::unique_ptr<Linear>> CreateQuantizedLinear(absl::Span<const StoredMatrix> parts,
                                                              absl::Span<const StoredMatrix> biases,
                                                              ComputeType compute_type);

}  // namespace kvasir
