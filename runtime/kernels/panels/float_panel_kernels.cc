#include <algorithm>

#include "runtime/kernels/panels/panel_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/panels/float_panel_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/row_blocks.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

using PanelTag = hn::CappedTag<float, kPanelOutputs>;
using PanelVec = hn::Vec<PanelTag>;

// Vectors across a panel: 1 with AVX-512, 2 with AVX2, 4 with SSE.
constexpr int kVectors = static_cast<int>(kPanelOutputs / HWY_MIN(HWY_LANES(float), kPanelOutputs));

// Register tiles: sums, the weights of one panel, one input. 6 x 4 sums of the 32 registers of
// AVX-512; 6 x 2 of the 16 of AVX2.
constexpr int kMaxTileRows = HWY_CAP_GE256 ? 6 : 2;

// Panels that few rows take side by side, so that enough sums are under way to hide the latency of
// an addition.
constexpr int PanelsTogether(int rows) {
  if (kVectors == 1) return static_cast<int>(kMostPanels);
  return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

// With more rows than a tile has, weights are taken in chunks of so many inputs: 4 KiB of a panel
// of 16 bits, 8 of f32, beside 3 KiB of rows in the first cache level.
constexpr size_t kChunkDepth = 128;

// Between what is multiplied and what is asked for in the same panel.
constexpr size_t kAheadBytes = 2048;

// Vector `v` of input kHalf of a pair.
template <int kHalf>
HWY_INLINE PanelVec LoadWeights(PanelTag d, const float* pair, size_t v) {
  return hn::LoadU(d, pair + kHalf * kPanelOutputs + v * hn::Lanes(d));
}
template <int kHalf>
HWY_INLINE PanelVec LoadWeights(PanelTag d, const bf16* pair, size_t v) {
  const U32<PanelTag> words;
  const auto both =
      hn::LoadU(words, reinterpret_cast<const uint32_t*>(pair) + v * hn::Lanes(words));
  if constexpr (kHalf == 0) return hn::BitCast(d, hn::ShiftLeft<16>(both));
  return hn::BitCast(d, hn::And(both, hn::Set(words, 0xffff0000u)));
}
template <int kHalf>
HWY_INLINE PanelVec LoadWeights(PanelTag d, const f16* pair, size_t v) {
  const hn::Rebind<hwy::float16_t, PanelTag> halves;
  const auto* from = reinterpret_cast<const hwy::float16_t*>(pair + kHalf * kPanelOutputs);
  return hn::PromoteTo(d, hn::LoadU(halves, from + v * hn::Lanes(d)));
}

// Whichever are fewer stay in registers: the inputs of all rows, or the weights of all panels.
template <int kHalf, int kRows, int kPanels, class T>
HWY_INLINE void MultiplyInput(const float* HWY_RESTRICT x, size_t x_stride, const T* pair,
                              size_t panel_stride, PanelVec (&sums)[kRows][kPanels][kVectors]) {
  const PanelTag d;
  if constexpr (kRows > kPanels * kVectors) {
    PanelVec weights[kPanels][kVectors];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        weights[p][v] = LoadWeights<kHalf>(d, pair + p * panel_stride, v);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const auto input = hn::Set(d, x[r * x_stride + kHalf]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
          sums[r][p][v] = hn::MulAdd(input, weights[p][v], sums[r][p][v]);
      }
    }
  } else {
    PanelVec inputs[kRows];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) inputs[r] = hn::Set(d, x[r * x_stride + kHalf]);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const auto weights = LoadWeights<kHalf>(d, pair + p * panel_stride, v);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r)
          sums[r][p][v] = hn::MulAdd(inputs[r], weights, sums[r][p][v]);
      }
    }
  }
}

template <int kRows, int kPanels, bool kAsks, class T>
HWY_INLINE void Tile(const float* HWY_RESTRICT x, size_t x_stride, size_t depth, const T* weights,
                     size_t panel_stride, bool add, float* HWY_RESTRICT out) {
  const PanelTag d;
  const size_t lanes = hn::Lanes(d);
  PanelVec sums[kRows][kPanels][kVectors];
  const auto at = [&](int r, int p, int v)
                      HWY_ATTR { return out + r * kSumColumns + p * kPanelOutputs + v * lanes; };
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[r][p][v] = add ? hn::LoadU(d, at(r, p, v)) : hn::Zero(d);
      }
    }
  }
  for (size_t k = 0; k < depth; k += 2) {
    const T* const pair = weights + k * kPanelOutputs;
    if constexpr (kAsks) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const char* const ahead =
            reinterpret_cast<const char*>(pair + p * panel_stride) + kAheadBytes;
        __builtin_prefetch(ahead, /*rw=*/0, /*locality=*/2);
        if constexpr (sizeof(T) == 4) __builtin_prefetch(ahead + 64, /*rw=*/0, /*locality=*/2);
      }
    }
    MultiplyInput<0>(x + k, x_stride, pair, panel_stride, sums);
    MultiplyInput<1>(x + k, x_stride, pair, panel_stride, sums);
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[r][p][v], d, at(r, p, v));
    }
  }
}

template <int kRows, bool kAsks, class T>
HWY_INLINE void TilesOfPanels(const float* x, size_t x_stride, size_t depth, const T* weights,
                              size_t panel_stride, size_t panels, bool add, float* sums) {
  constexpr int kTogether = PanelsTogether(kRows);
  size_t p = 0;
  for (; p + kTogether <= panels; p += kTogether) {
    Tile<kRows, kTogether, kAsks>(x, x_stride, depth, weights + p * panel_stride, panel_stride, add,
                                  sums + p * kPanelOutputs);
  }
  for (; kTogether > 1 && p < panels; ++p) {
    Tile<kRows, 1, kAsks>(x, x_stride, depth, weights + p * panel_stride, panel_stride, add,
                          sums + p * kPanelOutputs);
  }
}

template <class T>
HWY_INLINE void Product(const float* x, size_t x_stride, size_t rows, size_t depth,
                        const WeightPanels<T>& weights, bool add, float* sums) {
  const size_t chunk = rows > kMaxTileRows ? kChunkDepth : depth;
  for (size_t k = 0; k < depth; k += chunk) {
    const size_t count = std::min(chunk, depth - k);
    ForRowBlocks<kMaxTileRows>(rows, [&]<int kRows>(size_t row) HWY_ATTR {
      const T* const from = weights.first + k * kPanelOutputs;
      if (row == 0) {
        TilesOfPanels<kRows, true>(x + k, x_stride, count, from, weights.panel_stride,
                                   weights.panels, add || k > 0, sums);
      } else {
        TilesOfPanels<kRows, false>(x + row * x_stride + k, x_stride, count, from,
                                    weights.panel_stride, weights.panels, add || k > 0,
                                    sums + row * kSumColumns);
      }
    });
  }
}

void ProductF32(const float* x, size_t x_stride, size_t rows, size_t depth,
                const WeightPanels<float>& weights, bool add, float* sums) {
  Product(x, x_stride, rows, depth, weights, add, sums);
}
void ProductBf16(const float* x, size_t x_stride, size_t rows, size_t depth,
                 const WeightPanels<bf16>& weights, bool add, float* sums) {
  Product(x, x_stride, rows, depth, weights, add, sums);
}
void ProductF16(const float* x, size_t x_stride, size_t rows, size_t depth,
                const WeightPanels<f16>& weights, bool add, float* sums) {
  Product(x, x_stride, rows, depth, weights, add, sums);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(ProductF32);
HWY_EXPORT(ProductBf16);
HWY_EXPORT(ProductF16);

void PanelProduct(const float* x, size_t x_stride, size_t rows, size_t depth,
                  const WeightPanels<float>& weights, bool add, float* sums) {
  HWY_DYNAMIC_DISPATCH(ProductF32)(x, x_stride, rows, depth, weights, add, sums);
}
void PanelProduct(const float* x, size_t x_stride, size_t rows, size_t depth,
                  const WeightPanels<bf16>& weights, bool add, float* sums) {
  HWY_DYNAMIC_DISPATCH(ProductBf16)(x, x_stride, rows, depth, weights, add, sums);
}
void PanelProduct(const float* x, size_t x_stride, size_t rows, size_t depth,
                  const WeightPanels<f16>& weights, bool add, float* sums) {
  HWY_DYNAMIC_DISPATCH(ProductF16)(x, x_stride, rows, depth, weights, add, sums);
}

}  // namespace kvasir
#endif  // HWY_ONCE
