// Attention of a few query rows over bf16 or int8 K and V in f32, as they lie in the pool: elements
// are widened, and keys turned, in registers, where attention_kernels.h would pack them into memory
// first. With the same sums to the bit. Raw pointers; strides count elements. Thread safe: pure
// functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

namespace kvasir {

inline constexpr size_t kMaxF32StreamedRows = 8;

// Whether so many rows are streamed here: with AVX2, dimensions in whole vectors. AVX-512 packs, or
// has other arithmetic.
bool StreamsF32(size_t rows, size_t k_dim, size_t v_dim);

// scores[r][t] = sum over d of queries[r][d] * keys[t][d], t < count. keys: [count][dim]; queries:
// [rows][dim]; ahead as PackKeys takes it. scales: [count], a factor of each key, or value.
void StreamKeys(const bf16* keys, size_t count, size_t dim, const void* ahead, const float* queries,
                size_t rows, float* scores, size_t scores_stride);

void StreamKeys(const int8_t* keys, const float* scales, size_t count, size_t dim,
                const void* ahead, const float* queries, size_t rows, float* scores,
                size_t scores_stride);

// mix[r][d] += sum over t of weights[r][t] * values[t][d], t < count, d < dim. values: [count]
// [stride]; ahead as PackKeys takes it.
void StreamValues(const bf16* values, size_t count, size_t stride, size_t dim, const void* ahead,
                  const float* weights, size_t weights_stride, size_t rows, float* mix,
                  size_t mix_stride);
void StreamValues(const int8_t* values, const float* scales, size_t count, size_t stride,
                  size_t dim, const void* ahead, const float* weights, size_t weights_stride,
                  size_t rows, float* mix, size_t mix_stride);

}  // namespace kvasir
