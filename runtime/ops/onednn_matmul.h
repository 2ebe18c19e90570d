// Linear on oneDNN's matmul primitive, or on weights that it has packed. Included by matmul.cc and
// tests only; everyone else uses matmul.h.
//
// One packed layout serves every row count: with oneDNN 2.6 the layout that `format_tag::any`
// chooses does not depend on the rows (checked at each primitive's creation). On AMX, whole blocks
// of 64 columns in bf16 and int8 are multiplied by packed_products.h, from the same layout: oneDNN
// reads at half of the memory's rate there with few rows and computes more slowly with many. Which
// of the ways of equal bits multiplies how many rows is measured by Warm (product_choice.h); with
// int8 and VNNI, and with bf16 and no AMX, oneDNN's is one of them. Where bf16 is multiplied by
// ours, a row's result does not depend on the number of rows; int8 products are exact everywhere:
// s32 sums, of which one own pass (DequantizeRow) takes off the zero point and applies both scales
// and the bias. (oneDNN can fuse a scale per output channel but not one per row: a per-row binary
// post-op falls off the fast implementation, more than 100 times slower.)
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

// Whether oneDNN runs bf16 products on native instructions here.
bool OneDnnHasBf16();

// Whether u8 x s8 products are exact here. Without VNNI, pairs of products saturate at 16 bits, and
// int8 weights are limited to 6 bits and sign, which cannot.
bool OneDnnHasExactInt8();

// Whether oneDNN uses AVX-512 here.
bool OneDnnHasAvx512();

// Whether oneDNN may use AMX here: where it may not, nor may products of ours.
bool OneDnnHasAmx();

// Shapes are already checked and compute_type is effective.
absl::StatusOr<std::unique_ptr<Linear>> CreateOneDnnLinear(absl::Span<const StoredMatrix> parts,
                                                           absl::Span<const StoredMatrix> biases,
                                                           ComputeType compute_type);

}  // namespace kvasir
