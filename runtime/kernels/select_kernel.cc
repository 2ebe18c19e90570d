#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/select_kernel.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/pick_kernels.h"
#include "runtime/kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

constexpr uint32_t kKeyBias = 0x80000000u;  // makes ordered keys order as unsigned integers
constexpr int kBinBits = 11;
constexpr size_t kBins = size_t{1} << kBinBits;

// From this many values on, a sample of about kSampleValues tells first which of them to look at.
constexpr size_t kMinSampled = 2048;
constexpr size_t kSampleValues = 1024;

// Keys that order as signed integers as their floats do; -0 and 0 are equal.
template <class D>
HWY_INLINE hn::Vec<I32<D>> OrderedKey(D d, hn::Vec<D> value) {
  const I32<D> di;
  const auto bits = hn::BitCast(di, hn::Add(value, hn::Zero(d)));  // -0 + 0 = 0
  const auto magnitude_flip = hn::And(hn::BroadcastSignBit(bits), hn::Set(di, 0x7fffffff));
  return hn::Xor(bits, magnitude_flip);
}

HWY_INLINE int32_t KeyOf(float value) {
  const hn::CappedTag<float, 1> one;
  return hn::GetLane(OrderedKey(one, hn::Set(one, value)));
}

HWY_INLINE float ValueOf(int32_t key) {
  const hn::CappedTag<float, 1> one;
  const int32_t bits = key < 0 ? key ^ 0x7fffffff : key;
  return hn::GetLane(hn::BitCast(one, hn::Set(I32<decltype(one)>(), bits)));
}

// Stores the lanes of `v` in `mask` at `out` and returns how many they are. Writes a whole vector:
// the instruction that compresses into memory takes some hundred cycles on AMD's cores, this takes
// four.
template <class D, class M>
HWY_INLINE size_t StoreChosen(D d, hn::Vec<D> v, M mask, hn::TFromD<D>* out) {
  hn::StoreU(hn::Compress(v, mask), d, out);
  return hn::CountTrue(d, mask);
}

// Counts keys by the `bits` bits above `shift`. Two tables, so that equal neighbours do not wait
// for each other.
HWY_INLINE void CountBins(const int32_t* keys, size_t n, int shift, int bits, uint32_t* bins) {
  const uint32_t mask = (1u << bits) - 1;
  std::fill_n(bins, 2 * kBins, 0u);
  const auto bin = [=](size_t i) {
    return ((static_cast<uint32_t>(keys[i]) ^ kKeyBias) >> shift) & mask;
  };
  size_t i = 0;
  for (; i + 2 <= n; i += 2) {
    ++bins[bin(i)];
    ++bins[kBins + bin(i + 1)];
  }
  if (i < n) ++bins[bin(i)];
}

// Moves the keys in [first, last] to the front, in order, and returns how many they are. A vector
// written at the kept ones' end never passes the vector just read.
HWY_INLINE size_t KeepRange(int32_t* keys, size_t n, int32_t first, int32_t last) {
  const hn::ScalableTag<int32_t> d;
  const size_t lanes = hn::Lanes(d);
  size_t kept = 0, i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto key = hn::LoadU(d, keys + i);
    // Not (below or above): the SSE targets have no integer >=.
    const auto outside = hn::Or(hn::Lt(key, hn::Set(d, first)), hn::Gt(key, hn::Set(d, last)));
    kept += StoreChosen(d, key, hn::Not(outside), keys + kept);
  }
  for (; i < n; ++i) {
    const int32_t key = keys[i];
    if (key >= first && key <= last) keys[kept++] = key;
  }
  return kept;
}

struct Threshold {
  int32_t key;     // of the count-th largest
  size_t ties;     // how many keys equal to it are among the largest
  bool ambiguous;  // whether there are more
};

// Radix select: each round counts keys by their next 11 bits and keeps those of the one bin in
// which the count-th largest lies, 1 <= count <= n. Overwrites the keys.
HWY_INLINE Threshold FindThreshold(int32_t* keys, size_t n, size_t count) {
  uint32_t bins[2 * kBins];
  size_t candidates = n;
  size_t wanted = count;  // of the candidates; all keys above them are selected
  uint32_t low = 0;       // smallest candidate there can be, biased
  for (int shift = 32; candidates > wanted && shift > 0;) {
    const int bits = std::min(kBinBits, shift);
    shift -= bits;
    CountBins(keys, candidates, shift, bits, bins);
    size_t bin = size_t{1} << bits;
    size_t in_bin = 0;
    for (;;) {
      --bin;
      in_bin = size_t{bins[bin]} + bins[kBins + bin];
      if (in_bin >= wanted) break;
      wanted -= in_bin;
    }
    low |= static_cast<uint32_t>(bin) << shift;
    const int32_t first = static_cast<int32_t>(low ^ kKeyBias);
    const int32_t last = static_cast<int32_t>((low | ((1u << shift) - 1)) ^ kKeyBias);
    candidates = KeepRange(keys, candidates, first, last);
  }
  const int32_t least = *std::min_element(keys, keys + candidates);
  return {least, wanted, candidates > wanted};
}

// A value that a little more than the `count` largest should reach: the sample's own count-th
// largest in proportion, four standard deviations further down. Only speed depends on it.
HWY_INLINE float ProbableFloor(const float* values, size_t n, size_t count, int32_t* keys) {
  const size_t step =
      (n / kSampleValues) | 1;  // odd, or texts with a period of a power of two would fool it
  size_t samples = 0;
  for (size_t i = 0; i < n; i += step) keys[samples++] = KeyOf(values[i]);
  const size_t expected = count / step;
  size_t deviation = 1;
  while (deviation * deviation < expected) ++deviation;
  const size_t rank = expected + 4 * deviation + 4;
  if (rank >= samples) return -std::numeric_limits<float>::infinity();
  return ValueOf(FindThreshold(keys, samples, rank).key);
}

// Writes the keys of the values that are not below `floor`, and returns how many they are.
HWY_INLINE size_t KeysFrom(const float* values, size_t n, float floor, int32_t* keys) {
  const hn::ScalableTag<float> d;
  const I32<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  size_t kept = 0, i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto value = hn::LoadU(d, values + i);
    kept += StoreChosen(di, OrderedKey(d, value),
                        hn::RebindMask(di, hn::Ge(value, hn::Set(d, floor))), keys + kept);
  }
  for (; i < n; ++i) {
    if (values[i] >= floor) keys[kept++] = KeyOf(values[i]);
  }
  return kept;
}

// Writes the indices of the values that are above `limit`, or equal to it and not behind last_tie:
// `count` in all.
HWY_INLINE void EmitIndices(const float* values, size_t n, float limit, int32_t last_tie,
                            size_t count, int32_t* out) {
  const hn::ScalableTag<float> d;
  const I32<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  const auto least = hn::Set(d, limit);
  const auto last = hn::Set(di, last_tie), step = hn::Set(di, static_cast<int32_t>(lanes));
  auto indices = hn::Iota(di, 0);
  size_t stored = 0, i = 0;
  for (; i + lanes <= n; i += lanes, indices = hn::Add(indices, step)) {
    const auto value = hn::LoadU(d, values + i);
    const auto early = hn::RebindMask(d, hn::Not(hn::Gt(indices, last)));
    const auto chosen = hn::Or(hn::Gt(value, least), hn::And(hn::Eq(value, least), early));
    stored += StoreChosen(di, indices, hn::RebindMask(di, chosen), out + stored);
  }
  for (; i < n && stored < count; ++i) {
    if (values[i] > limit || (values[i] == limit && static_cast<int32_t>(i) <= last_tie)) {
      out[stored++] = static_cast<int32_t>(i);
    }
  }
}

void SelectLargestF32(const float* values, size_t n, size_t count, uint32_t* scratch,
                      int32_t* picks) {
  if (count == 0) return;
  if (count == n) {
    for (size_t i = 0; i < n; ++i) picks[i] = static_cast<int32_t>(i);
    return;
  }
  int32_t* const keys = reinterpret_cast<int32_t*>(scratch);
  constexpr float kAll = -std::numeric_limits<float>::infinity();
  const float floor = n < kMinSampled ? kAll : ProbableFloor(values, n, count, keys);
  size_t candidates = KeysFrom(values, n, floor, keys);
  if (candidates < count) candidates = KeysFrom(values, n, kAll, keys);
  const Threshold threshold = FindThreshold(keys, candidates, count);
  const float limit = ValueOf(threshold.key);
  int32_t last_tie = std::numeric_limits<int32_t>::max();
  if (threshold.ambiguous) {
    size_t left = threshold.ties;
    for (size_t i = 0; left > 0; ++i) {
      if (values[i] != limit) continue;
      last_tie = static_cast<int32_t>(i);
      --left;
    }
  }
  EmitIndices(values, n, limit, last_tie, count, picks);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(SelectLargestF32);

void SelectLargest(const float* values, size_t n, size_t count, uint32_t* scratch, int32_t* picks) {
  HWY_DYNAMIC_DISPATCH(SelectLargestF32)(values, n, count, scratch, picks);
}

}  // namespace kvasir
#endif  // HWY_ONCE
