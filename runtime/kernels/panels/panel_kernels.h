// Products with weights in panels of 16 outputs, for CPUs whose instructions multiply neither bf16
// nor int8: weights stay at their 16 or 8 bits in memory, where a product of few rows reads them at
// the memory's speed, and are widened in registers. Weights of 16 bits become f32, exactly, and
// meet rows in f32; a panel of f32 is multiplied the same way.
//
// A panel holds 16 outputs for all inputs, and is read from its first byte to its last:
//   f32, f16: [depth][16]
//   bf16:     [depth / 2][16][2]
//   int8:     [depth / 4][16][4]
// Panels follow each other at a distance of `panel_stride` values. Lines that lie ahead of a panel
// are asked for, whether or not they are weights.
//
// Sums take inputs in ascending order, one row by itself: a row's result depends neither on the
// other rows nor on how many they are. Raw pointers, no alignment needed, no allocation. Pure
// functions, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

namespace kvasir {

inline constexpr size_t kPanelOutputs = 16;
inline constexpr size_t kMostPanels = 4;  // of one call
inline constexpr size_t kSumColumns = kMostPanels * kPanelOutputs;

// The weights of one product: `panels` <= kMostPanels from `first` on.
template <typename T>
struct WeightPanels {
  const T* first = nullptr;
  size_t panel_stride = 0;  // values
  size_t panels = 0;
};

// sums[r][16 * p + j] = sum over k < depth of x[r * x_stride + k] * w[p][k][j], for r < rows; with
// `add`, added to what sums hold, input by input. sums: [rows][kSumColumns]. depth is even.
void PanelProduct(const float* x, size_t x_stride, size_t rows, size_t depth,
                  const WeightPanels<float>& weights, bool add, float* sums);
void PanelProduct(const float* x, size_t x_stride, size_t rows, size_t depth,
                  const WeightPanels<bf16>& weights, bool add, float* sums);
void PanelProduct(const float* x, size_t x_stride, size_t rows, size_t depth,
                  const WeightPanels<f16>& weights, bool add, float* sums);

// Unsigned rows with weights within +-63, for pairs of products are summed in 16 bits: exact. depth
// is a multiple of 4. Only callable where HasInt8Panels().
inline constexpr int kInt8PanelLimit = 63;
bool HasInt8Panels();  // the CPU has AVX2
void PanelProduct(const uint8_t* x, size_t x_stride, size_t rows, size_t depth,
                  const WeightPanels<int8_t>& weights, bool add, int32_t* sums);

}  // namespace kvasir
