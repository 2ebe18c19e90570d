// ScoreKeys and MixValues of bf16 (bf16_attention_kernels.h) in f32's FMAs, to the bit what those
// give where FmasEqualBf16Products() (avx512_column_kernels.h): for CPUs whose VDPBF16PS is the
// slower of both. Callable when HasBf16Products(). Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "base/bf16.h"
#include "runtime/kernels/bf16_attention_kernels.h"

namespace kvasir {

// Whether heads of so many dimensions are taken: whole pieces of 8 of K, pairs of V, and few enough
// for the scratch of kMaxStreamedRows rows. Else nobody may call the two.
bool FmasScoreKeys(size_t dim);
bool FmasMixValues(size_t dim);

void ScoreKeysByFmas(absl::Span<const RowRun<bf16>> runs, size_t dim, const uint32_t* queries,
                     size_t rows, float* scores, size_t scores_stride);
void MixValuesByFmas(absl::Span<const RowRun<bf16>> runs, size_t stride, size_t dim,
                     const uint32_t* weights, size_t weights_stride, size_t rows, float* mix,
                     size_t mix_stride);

}  // namespace kvasir
