// Products of few rows with packed weights on AVX-512: what amx_column_kernels.h is for AMX, on the
// same layout of the weights. Reading these is what takes time, so they are asked for ahead of
// their use, and come from memory once for as many rows as the registers have sums for; further
// rows take them from the first cache level.
//
// Sums take words in ascending order, one row by itself: a row's result does not depend on the
// other rows. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "runtime/kernels/columns/amx_column_kernels.h"

namespace kvasir {

// sums[r][j] = sum over k < depth of x[r][k] * w[k][j], j < kAmxColumns, r < rows. depth is a
// multiple of kAmxStepDepth. x: rows at a distance of x_stride values; sums: [rows][kAmxColumns];
// weights and weights_end as AmxColumnProduct takes them.

// x unsigned and w signed, exact. Only callable on CPUs with AVX-512 F, BW, VL and VNNI.
void VnniColumnProduct(const uint8_t* x, size_t x_stride, size_t rows, size_t depth,
                       const void* weights, const void* weights_end, int32_t* sums);
// Pairs of inputs as VDPBF16PS adds them. Only callable when HasBf16Products()
// (bf16_attention_kernels.h).
void Bf16ColumnProduct(const bf16* x, size_t x_stride, size_t rows, size_t depth,
                       const void* weights, const void* weights_end, float* sums);

}  // namespace kvasir
