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
#include "runtime/kernels/streams/stream_asking.h"
#include "runtime/kernels/upcoming_lines.h"

namespace kvasir {

// sums[r][j] = sum over k < depth of x[r][k] * w[k][j], j < kAmxColumns, r < rows. depth is a
// multiple of kAmxStepDepth. x: rows at a distance of x_stride values; sums: [rows][kAmxColumns];
// weights and weights_end as AmxColumnProduct takes them; asking: where registers have sums for all
// rows.

// x unsigned and w signed, exact. Only callable on CPUs with AVX-512 F, BW, VL and VNNI.
void VnniColumnProduct(const uint8_t* x, size_t x_stride, size_t rows, size_t depth,
                       const void* weights, const void* weights_end, StreamAsking asking,
                       int32_t* sums);
// Pairs of inputs as VDPBF16PS adds them. Only callable when HasBf16Products()
// (bf16_attention_kernels.h).
void Bf16ColumnProduct(const bf16* x, size_t x_stride, size_t rows, size_t depth,
                       const void* weights, const void* weights_end, StreamAsking asking,
                       float* sums);

// The same by multiplications of f32. VDPBF16PS adds the product of a word's second pair and then
// that of its first, each with one rounding and denormal numbers as 0 (Intel, "Architectures
// Software Developer's Manual"), and so do these two FMAs of widened bf16: the same bits where
// FmasEqualBf16Products(). Intel's CPUs make four FMAs in the time of one VDPBF16PS, AMD's one or
// two. x: inputs of bf16 as f32. Callable when HasBf16Products().
void FmaColumnProduct(const float* x, size_t x_stride, size_t rows, size_t depth,
                      const void* weights, const void* weights_end, StreamAsking asking,
                      float* sums);

// Whether this CPU's VDPBF16PS rounds like that, and whether two FMAs take less time. Both are
// tried by the first call, within 1 ms.
bool FmasEqualBf16Products();
bool FmasOutrunBf16Products();

// For many rows, words of bf16 are widened once into a panel, [depth][kAmxColumns] f32, that stays
// in the first cache level for all of them: kFmaPanelDepth inputs take 16 KiB. words: [depth / 2]
// [kAmxColumns], at a distance of `stride` words; depth is even.
inline constexpr size_t kFmaPanelDepth = 64;
void WidenPanel(const void* words, size_t stride, size_t depth, float* panel);
// sums[r * sums_stride + j] = (first ? 0 : that) + the panel's products, r < rows, j < kAmxColumns;
// x: [rows][depth]. Asks for `upcoming` on the way.
void FmaPanelProduct(const float* x, size_t rows, size_t depth, const float* panel, bool first,
                     UpcomingLines::Lines upcoming, float* sums, size_t sums_stride);

}  // namespace kvasir
