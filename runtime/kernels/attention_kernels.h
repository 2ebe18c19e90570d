// The f32 pieces of tiled attention, for every CPU: packing K and V rows out of the pool, the two
// small products of a tile, and softmax with base-2 statistics. runtime/ops/attention_tile puts
// them together; bf16_attention_kernels.h has what runs on dot-product instructions instead.
//
// Every output element is summed over k in ascending order by one accumulator, whatever the tile's
// size: a row's result does not depend on which other rows share the tile.
//
// Raw pointers; strides count elements. "Columns" are always whole groups of 16 floats
// (kColumnGroup), so that one group is whole vectors on every target. Thread safe: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

namespace kvasir {

inline constexpr size_t kColumnGroup = 16;

// Columns whose products are summed in one set of registers: packed matrices of more columns are
// best laid out as panels of so many.
inline constexpr size_t kPanelColumns = 64;

inline size_t RoundUpColumns(size_t n) {
  return (n + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
}

// keys: [count][dim]. out[d * out_stride + t] = keys[t][d] for t < count, and 0 for t in
// [count, RoundUpColumns(count)). `scales` [count], int8 only: one factor per key. `ahead`: where
// rows of the same kind begin that will be read soon; their lines are prefetched meanwhile (null:
// none).
void PackKeys(const float* keys, size_t count, size_t dim, const void* ahead, float* out,
              size_t out_stride);
void PackKeys(const bf16* keys, size_t count, size_t dim, const void* ahead, float* out,
              size_t out_stride);
void PackKeys(const f16* keys, size_t count, size_t dim, const void* ahead, float* out,
              size_t out_stride);
void PackKeys(const int8_t* keys, const float* scales, size_t count, size_t dim, const void* ahead,
              float* out, size_t out_stride);

// c[r][j] = sum over k of a[r][k] * b[k][j] for j < cols; cols is a multiple of kColumnGroup.
// a: [rows][depth], b: [depth][cols], c: [rows][cols].
void TileProduct(const float* a, size_t a_stride, size_t rows, size_t depth, const float* b,
                 size_t b_stride, size_t cols, float* c, size_t c_stride);

// Of one row of scores. The weights are 2^(score - max): max is in base-2 units.
struct RowStatistics {
  float max;
  float sum;  // of the weights as stored
};

// Turns scores[0:count] into weights 2^(score * scale - max), in place; scores[count:padded] become
// 0. scale > 0 (it contains log2 e), 1 <= count <= padded, padded a multiple of kColumnGroup.
RowStatistics SoftmaxRow(float* scores, size_t count, size_t padded, float scale);

// acc = acc * acc_factor + x * x_factor; both [n].
void BlendRow(float* acc, float acc_factor, const float* x, float x_factor, size_t n);

// Whether these kernels now run as compiled for AVX-512. Cheap: asking Highway for its targets
// executes CPUID, which costs 40 microseconds in a virtual machine.
bool DispatchesToAvx512();

// 2^x as the weights use it: 0 for x < -126.
float Exp2Scalar(float x);

}  // namespace kvasir
