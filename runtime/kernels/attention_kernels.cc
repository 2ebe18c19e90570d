#include "runtime/kernels/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/attention_kernels.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/row_blocks.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

// Four keys x four dimensions at a time: a 4x4 transpose inside 128-bit vectors, which every target
// has.
template <class T>
HWY_INLINE void PackKeysAs(const T* keys, const float* scales, size_t count, size_t dim,
                           const T* ahead, float* out, size_t out_stride) {
  const size_t padded = (count + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
  size_t whole_dims = 0;  // dimensions and keys done by the vector loop
  size_t t = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no vectors to transpose
  const hn::CappedTag<float, 4> d;
  const hn::RepartitionToWide<decltype(d)> wide;
  whole_dims = dim / 4 * 4;
  for (; t + 4 <= count; t += 4) {
    const T* row = keys + t * dim;
    for (size_t i = 0; i < whole_dims; i += 4) {
      // As many bytes ahead as are read here: one line for f32.
      if (i % (16 / sizeof(T)) == 0) hwy::Prefetch(ahead + t * dim + 4 * i);
      auto k0 = LoadFloats(d, row + i);
      auto k1 = LoadFloats(d, row + dim + i);
      auto k2 = LoadFloats(d, row + 2 * dim + i);
      auto k3 = LoadFloats(d, row + 3 * dim + i);
      if (scales != nullptr) {
        k0 = hn::Mul(k0, hn::Set(d, scales[t]));
        k1 = hn::Mul(k1, hn::Set(d, scales[t + 1]));
        k2 = hn::Mul(k2, hn::Set(d, scales[t + 2]));
        k3 = hn::Mul(k3, hn::Set(d, scales[t + 3]));
      }
      const auto low01 = hn::BitCast(wide, hn::InterleaveLower(d, k0, k1));
      const auto low23 = hn::BitCast(wide, hn::InterleaveLower(d, k2, k3));
      const auto high01 = hn::BitCast(wide, hn::InterleaveUpper(d, k0, k1));
      const auto high23 = hn::BitCast(wide, hn::InterleaveUpper(d, k2, k3));
      float* to = out + i * out_stride + t;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, low01, low23)), d, to);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, low01, low23)), d, to + out_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, high01, high23)), d, to + 2 * out_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, high01, high23)), d, to + 3 * out_stride);
    }
  }
#endif
  // The last keys, the last dimensions, and the padding, one element at a time.
  const hn::CappedTag<float, 1> one;
  for (size_t token = 0; token < padded; ++token) {
    for (size_t i = token < t ? whole_dims : 0; i < dim; ++i) {
      float value = 0.0f;
      if (token < count) {
        value = hn::GetLane(LoadFloats(one, keys + token * dim + i));
        if (scales != nullptr) value *= scales[token];
      }
      out[i * out_stride + token] = value;
    }
  }
}

void PackKeysF32(const float* keys, size_t count, size_t dim, const float* ahead, float* out,
                 size_t out_stride) {
  PackKeysAs(keys, nullptr, count, dim, ahead, out, out_stride);
}
void PackKeysBf16(const bf16* keys, size_t count, size_t dim, const bf16* ahead, float* out,
                  size_t out_stride) {
  PackKeysAs(keys, nullptr, count, dim, ahead, out, out_stride);
}
void PackKeysF16(const f16* keys, size_t count, size_t dim, const f16* ahead, float* out,
                 size_t out_stride) {
  PackKeysAs(keys, nullptr, count, dim, ahead, out, out_stride);
}
void PackKeysInt8(const int8_t* keys, const float* scales, size_t count, size_t dim,
                  const int8_t* ahead, float* out, size_t out_stride) {
  PackKeysAs(keys, scales, count, dim, ahead, out, out_stride);
}

// One register tile: kRows x kVectors accumulators over the whole depth.
template <size_t kRows, size_t kVectors>
HWY_INLINE void ProductBlock(const float* HWY_RESTRICT a, size_t a_stride, size_t depth,
                             const float* HWY_RESTRICT b, size_t b_stride, float* HWY_RESTRICT c,
                             size_t c_stride) {
  const hn::CappedTag<float, kColumnGroup> d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<decltype(d)> sums[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  }
  for (size_t k = 0; k < depth; ++k) {
    hn::Vec<decltype(d)> columns[kVectors];
    for (size_t v = 0; v < kVectors; ++v) columns[v] = hn::LoadU(d, b + k * b_stride + v * lanes);
    for (size_t r = 0; r < kRows; ++r) {
      const auto factor = hn::Set(d, a[r * a_stride + k]);
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, columns[v], sums[r][v]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, c + r * c_stride + v * lanes);
  }
}

template <size_t kVectors>
HWY_INLINE void ProductColumns(const float* a, size_t a_stride, size_t rows, size_t depth,
                               const float* b, size_t b_stride, float* c, size_t c_stride) {
  // 6 x 4 accumulators fill the 32 registers of AVX-512; the older targets have 16.
  ForRowBlocks<HWY_CAP_GE256 ? 6 : 2>(rows, [=]<int kRows>(size_t r) HWY_ATTR {
    ProductBlock<kRows, kVectors>(a + r * a_stride, a_stride, depth, b, b_stride, c + r * c_stride,
                                  c_stride);
  });
}

void TileProductF32(const float* a, size_t a_stride, size_t rows, size_t depth, const float* b,
                    size_t b_stride, size_t cols, float* c, size_t c_stride) {
  // Vectors in one group of columns: 1 with AVX-512, 2 with AVX2, 4 with SSE and NEON.
  constexpr size_t kGroup = kColumnGroup / HWY_MIN(HWY_LANES(float), kColumnGroup);
  size_t j = 0;
#if HWY_CAP_GE512
  for (; j + 4 * kColumnGroup <= cols; j += 4 * kColumnGroup) {
    ProductColumns<4>(a, a_stride, rows, depth, b + j, b_stride, c + j, c_stride);
  }
#endif
  for (; j < cols; j += kColumnGroup) {
    ProductColumns<kGroup>(a, a_stride, rows, depth, b + j, b_stride, c + j, c_stride);
  }
}

// 2^x with 0 below the normal range, where Exp2 clamps: masked scores (-infinity) must weigh
// nothing.
template <class D>
HWY_INLINE hn::Vec<D> Weight(D d, hn::Vec<D> x) {
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -126.0f)), Exp2(d, x));
}

// Fills the padding of the last group with -infinity, and returns the padded count.
HWY_INLINE size_t MaskTail(float* scores, size_t count) {
  const size_t columns = (count + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
  for (size_t i = count; i < columns; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  return columns;
}

RowStatistics SoftmaxF32(float* scores, size_t count, size_t padded, float scale) {
  const size_t columns = MaskTail(scores, count);
  const float max = scale * MaxOver(columns, scores[0], [=](auto d, size_t i) HWY_ATTR {
                      return hn::LoadU(d, scores + i);
                    });
  const float sum = SumOver(columns, [=](auto d, size_t i) HWY_ATTR {
    const auto x = hn::MulSub(hn::LoadU(d, scores + i), hn::Set(d, scale), hn::Set(d, max));
    const auto w = Weight(d, x);
    hn::StoreU(w, d, scores + i);
    return w;
  });
  std::fill(scores + columns, scores + padded, 0.0f);
  return {max, sum};
}

bool IsAvx512() { return HWY_CAP_GE512 != 0; }

void Blend(float* acc, float acc_factor, const float* x, float x_factor, size_t n) {
  ForEachVector(n, [=](auto d, size_t i) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, x_factor));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, acc + i), hn::Set(d, acc_factor), scaled), d, acc + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

namespace {

// Rows that are being read anyway are prefetched when nothing is ahead: no test in the loop.
template <typename T>
const T* AheadOr(const void* ahead, const T* rows) {
  return ahead == nullptr ? rows : static_cast<const T*>(ahead);
}

}  // namespace

HWY_EXPORT(PackKeysF32);
HWY_EXPORT(PackKeysBf16);
HWY_EXPORT(PackKeysF16);
HWY_EXPORT(PackKeysInt8);
HWY_EXPORT(TileProductF32);
HWY_EXPORT(SoftmaxF32);
HWY_EXPORT(Blend);
HWY_EXPORT(IsAvx512);

void PackKeys(const float* keys, size_t count, size_t dim, const void* ahead, float* out,
              size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(PackKeysF32)(keys, count, dim, AheadOr(ahead, keys), out, out_stride);
}
void PackKeys(const bf16* keys, size_t count, size_t dim, const void* ahead, float* out,
              size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(PackKeysBf16)(keys, count, dim, AheadOr(ahead, keys), out, out_stride);
}
void PackKeys(const f16* keys, size_t count, size_t dim, const void* ahead, float* out,
              size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(PackKeysF16)(keys, count, dim, AheadOr(ahead, keys), out, out_stride);
}
void PackKeys(const int8_t* keys, const float* scales, size_t count, size_t dim, const void* ahead,
              float* out, size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(PackKeysInt8)
  (keys, scales, count, dim, AheadOr(ahead, keys), out, out_stride);
}
void TileProduct(const float* a, size_t a_stride, size_t rows, size_t depth, const float* b,
                 size_t b_stride, size_t cols, float* c, size_t c_stride) {
  HWY_DYNAMIC_DISPATCH(TileProductF32)(a, a_stride, rows, depth, b, b_stride, cols, c, c_stride);
}
RowStatistics SoftmaxRow(float* scores, size_t count, size_t padded, float scale) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxF32)(scores, count, padded, scale);
}
void BlendRow(float* acc, float acc_factor, const float* x, float x_factor, size_t n) {
  HWY_DYNAMIC_DISPATCH(Blend)(acc, acc_factor, x, x_factor, n);
}

bool DispatchesToAvx512() { return HWY_DYNAMIC_DISPATCH(IsAvx512)(); }

float Exp2Scalar(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }

}  // namespace kvasir
#endif  // HWY_ONCE
