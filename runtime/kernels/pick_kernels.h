// The pieces of sparse attention that dense attention has not: ranking positions by a few
// dimensions of K, exact top-k, and products with rows that lie scattered in the pool.
// runtime/ops/sparse puts them together.
//
// Arithmetic is f32 whatever the stored type. Every output element is summed in a fixed order that
// depends on neither tiles nor threads. T is float, bf16, f16 or int8_t.
//
// Raw pointers; strides count elements. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "runtime/kernels/attention_kernels.h"

namespace kvasir {

// scores[h][t] = sum over i < rank of q[h][i] * columns[dims[i]][t], t < count; count a multiple
// of 16. columns: [k_dim][count]. q: [heads][rank], its rows q_stride apart. scores: [heads],
// stride apart.
template <class T>
void ScoreColumns(const T* columns, size_t count, const int32_t* dims, size_t rank, const float* q,
                  size_t q_stride, size_t heads, float* scores, size_t stride);

// sum[d] += rows[t][d] (* scales[t] unless null) for t < count, in ascending order of t. rows:
// [count][dim].
template <class T>
void AddRows(const T* rows, const float* scales, size_t count, size_t dim, float* sum);

// The largest of values[0:n], n >= 1.
float MaxOf(const float* values, size_t n);

// Sum of 2^(values[i] - max), and of the weights alone without storing them.
float SumExp2(const float* values, size_t n, float max);

// Of one row's chunks, whose weights are relative to max[c * stride] and add up to sum[c * stride]:
// the whole row's statistics, and the factors that make those weights shares of it: factors[c] =
// 2^(max of c - max of all) / sum of all.
RowStatistics MergeChunks(const float* max, const float* sum, size_t stride, size_t chunks,
                          float* factors);

// acc[i] += values[i] * factor.
void AddScaled(const float* values, size_t n, float factor, float* acc);

// Writes to `picks` the indices of the `count` largest of values[0:n], ascending; among equal
// values those with lower indices. 0 <= count <= n; values are not NaN. scratch: [n + 16]; picks:
// room for count + 16.
void SelectLargest(const float* values, size_t n, size_t count, uint32_t* scratch, int32_t* picks);

// Lists of rows: row t begins at rows[t]. While row t is used, row t + kRowsAhead is prefetched, so
// each list must be readable that far: what follows may be the rows of the next call, or any
// address.
inline constexpr size_t kRowsAhead = 32;

// scores[h][t] = sum over d < dim of q[h][d] * rows[t][d] for t < count. q: [heads][dim].
template <class T>
void ScoreRows(const T* const* rows, size_t count, size_t dim, const float* q, size_t heads,
               float* scores, size_t stride);

// mix[h][d] = sum over t of weights[h][t] * rows[t][d]. weights: [heads], weights_stride apart;
// mix: [heads], mix_stride apart.
template <class T>
void MixRows(const T* const* rows, size_t count, size_t dim, const float* weights,
             size_t weights_stride, size_t heads, float* mix, size_t mix_stride);

}  // namespace kvasir
