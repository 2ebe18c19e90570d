#include "runtime/sampling/row_kernels.h"

#include <algorithm>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/sampling/row_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway asks.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using IntTag = hn::RebindToSigned<FloatTag>;
using FloatVec = hn::Vec<FloatTag>;

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();
constexpr size_t kMaxLanes = HWY_MAX_BYTES / sizeof(float);
static_assert(kMaxLanes <= kCompactSlack);

// The last values of a row as a full vector: the missing lanes are -infinity, which no pass counts.
HWY_INLINE FloatVec LoadTail(FloatTag d, const float* values, size_t count) {
  HWY_ALIGN float padded[kMaxLanes];
  std::fill_n(padded, hn::Lanes(d), kNegativeInfinity);
  std::memcpy(padded, values, count * sizeof(float));
  return hn::Load(d, padded);
}

// Comparisons instead of Min and Max: those differ between machines in what they do with NaN.
HWY_INLINE FloatVec CutInfinity(FloatTag d, FloatVec values) {
  const FloatVec largest = hn::Set(d, kLargest);
  return hn::IfThenElse(hn::Gt(values, largest), largest, values);
}

HWY_INLINE FloatVec LargerOrSecond(FloatVec values, FloatVec second) {
  return hn::IfThenElse(hn::Gt(values, second), values, second);
}

HWY_INLINE FloatVec Weight(FloatTag d, FloatVec values, FloatVec max,
                           FloatVec inverse_temperature) {
  const FloatVec scaled = hn::Mul(hn::Sub(CutInfinity(d, values), max), inverse_temperature);
  // exp(-104) is below the smallest float, and Exp gives 0 below it. NaN and -infinity go there,
  // too.
  const FloatVec usable =
      hn::IfThenElse(hn::Gt(scaled, hn::Set(d, -104.0f)), scaled, hn::Set(d, -105.0f));
  return hn::Exp(d, usable);
}

void BlockMaximaImpl(const float* row, size_t size, float* maxima) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  for (size_t begin = 0; begin < size; begin += kRowBlock) {
    const float* block = row + begin;
    const size_t count = std::min(kRowBlock, size - begin);
    FloatVec max = hn::Set(d, kNegativeInfinity);
    size_t i = 0;
    for (; i + lanes <= count; i += lanes) max = LargerOrSecond(hn::LoadU(d, block + i), max);
    if (i < count) max = LargerOrSecond(LoadTail(d, block + i, count - i), max);
    *maxima++ = std::min(hn::GetLane(hn::MaxOfLanes(d, max)), kLargest);
  }
}

void BlockExpSumsImpl(const float* row, size_t size, float max, float inverse_temperature,
                      float* sums) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const FloatVec max_vec = hn::Set(d, max);
  const FloatVec scale = hn::Set(d, inverse_temperature);
  for (size_t begin = 0; begin < size; begin += kRowBlock) {
    const float* block = row + begin;
    const size_t count = std::min(kRowBlock, size - begin);
    FloatVec sum0 = hn::Zero(d);
    FloatVec sum1 = hn::Zero(d);
    size_t i = 0;
    for (; i + 2 * lanes <= count; i += 2 * lanes) {
      sum0 = hn::Add(sum0, Weight(d, hn::LoadU(d, block + i), max_vec, scale));
      sum1 = hn::Add(sum1, Weight(d, hn::LoadU(d, block + i + lanes), max_vec, scale));
    }
    for (; i < count; i += lanes) {
      const FloatVec values =
          i + lanes <= count ? hn::LoadU(d, block + i) : LoadTail(d, block + i, count - i);
      sum0 = hn::Add(sum0, Weight(d, values, max_vec, scale));
    }
    *sums++ = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  }
}

void ExpWeightsImpl(const float* values, size_t size, float max, float inverse_temperature,
                    float* weights) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const FloatVec max_vec = hn::Set(d, max);
  const FloatVec scale = hn::Set(d, inverse_temperature);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    hn::StoreU(Weight(d, hn::LoadU(d, values + i), max_vec, scale), d, weights + i);
  }
  if (i < size) {
    HWY_ALIGN float padded[kMaxLanes];
    hn::Store(Weight(d, LoadTail(d, values + i, size - i), max_vec, scale), d, padded);
    std::memcpy(weights + i, padded, (size - i) * sizeof(float));
  }
}

size_t CompactAtLeastImpl(const float* row, size_t size, const float* maxima, float bound,
                          float* values, int32_t* ids) {
  const FloatTag d;
  const IntTag di;
  const size_t lanes = hn::Lanes(d);
  const FloatVec bound_vec = hn::Set(d, bound);
  size_t found = 0;
  for (size_t begin = 0; begin < size; begin += kRowBlock, ++maxima) {
    if (!(*maxima >= bound)) continue;
    const size_t end = std::min(begin + kRowBlock, size);
    for (size_t i = begin; i < end; i += lanes) {
      const FloatVec candidates =
          i + lanes <= end ? hn::LoadU(d, row + i) : LoadTail(d, row + i, end - i);
      const auto kept = hn::Ge(candidates, bound_vec);  // false for NaN and the tail's padding
      if (hn::AllFalse(d, kept)) continue;
      // Compress, then a full store: storing under a mask is microcode on Zen 4.
      hn::StoreU(hn::Compress(CutInfinity(d, candidates), kept), d, values + found);
      hn::StoreU(hn::Compress(hn::Iota(di, static_cast<int32_t>(i)), hn::RebindMask(di, kept)), di,
                 ids + found);
      found += hn::CountTrue(d, kept);
    }
  }
  return found;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(BlockMaximaImpl);
HWY_EXPORT(BlockExpSumsImpl);
HWY_EXPORT(ExpWeightsImpl);
HWY_EXPORT(CompactAtLeastImpl);

void BlockMaxima(const float* row, size_t size, float* maxima) {
  HWY_DYNAMIC_DISPATCH(BlockMaximaImpl)(row, size, maxima);
}

void BlockExpSums(const float* row, size_t size, float max, float inverse_temperature,
                  float* sums) {
  HWY_DYNAMIC_DISPATCH(BlockExpSumsImpl)(row, size, max, inverse_temperature, sums);
}

void ExpWeights(const float* values, size_t size, float max, float inverse_temperature,
                float* weights) {
  HWY_DYNAMIC_DISPATCH(ExpWeightsImpl)(values, size, max, inverse_temperature, weights);
}

size_t CompactAtLeast(const float* row, size_t size, const float* maxima, float bound,
                      float* values, int32_t* ids) {
  return HWY_DYNAMIC_DISPATCH(CompactAtLeastImpl)(row, size, maxima, bound, values, ids);
}

}  // namespace kvasir
#endif  // HWY_ONCE
