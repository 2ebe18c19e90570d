// Products of few rows with packed int8 weights on AVX-512 VNNI: what amx_column_kernels.h is for
// AMX, on the same layout of the weights and with the same sums, which are exact. Reading the
// weights is what takes time, so these are asked for ahead of their use, and read once for as many
// rows as the registers have sums for; further rows take them from the first cache level.
//
// Only callable on CPUs with AVX-512 F, BW, VL and VNNI. Thread safe: a pure function.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/kernels/amx_column_kernels.h"

namespace kvasir {

// sums[r][j] = sum over k < depth of x[r][k] * w[k][j], j < kAmxColumns, r < rows, x unsigned and w
// signed. depth is a multiple of kAmxStepDepth<uint8_t>. x: [rows][depth]; sums: [rows]
// [kAmxColumns]; weights and weights_end as AmxColumnProduct takes them.
void VnniColumnProduct(const uint8_t* x, size_t rows, size_t depth, const void* weights,
                       const void* weights_end, int32_t* sums);

}  // namespace kvasir
