#include "runtime/kernels/convert.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/reference/dispatch_targets.h"

namespace kvasir {
namespace {

// Lengths around the vector widths of every target, so that tails of every size occur.
const std::vector<size_t> kLengths = {0,  1,  2,  3,  4,  5,  7,  8,  9,
                                      15, 16, 17, 31, 33, 63, 64, 65, 100};

// Every 16-bit pattern, so every value, both zeros, subnormals, infinities and NaNs.
template <typename T>
std::vector<T> EveryPattern() {
  std::vector<T> all(0x10000);
  for (uint32_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  return all;
}

// Floats that sit on, beside and between the 16-bit values of T.
template <typename T>
std::vector<float> HardFloats() {
  std::vector<float> floats;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = ToFloat(T{static_cast<uint16_t>(bits)});
    const float next = ToFloat(T{static_cast<uint16_t>(bits + 1)});
    const float middle = static_cast<float>((static_cast<double>(value) + next) / 2);
    for (const float x :
         {value, middle, std::nextafter(middle, -INFINITY), std::nextafter(middle, INFINITY)}) {
      floats.push_back(x);
    }
  }
  std::mt19937 generator(7);
  for (int i = 0; i < 100000; ++i)
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(generator())));
  return floats;
}

template <typename T>
void ExpectWidens() {
  const std::vector<T> all = EveryPattern<T>();
  std::vector<float> floats(all.size());
  ToFloats(all.data(), all.size(), floats.data());
  for (size_t i = 0; i < all.size(); ++i) {
    const float expected = ToFloat(all[i]);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(floats[i])) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(expected)) << i;
    }
  }
}

template <typename T, typename Convert>
void ExpectNarrows(const Convert& convert) {
  const std::vector<float> floats = HardFloats<T>();
  std::vector<T> narrow(floats.size());
  FromFloats(floats.data(), floats.size(), narrow.data());
  for (size_t i = 0; i < floats.size(); ++i) {
    if (std::isnan(floats[i])) {
      ASSERT_TRUE(std::isnan(ToFloat(narrow[i]))) << i;
    } else {
      ASSERT_EQ(narrow[i].bits, convert(floats[i]).bits) << floats[i];
    }
  }
}

TEST(Convert, HalvesAndBf16AgreeWithTheScalarDefinitions) {
  ForEachDispatchTarget([] {
    ExpectWidens<bf16>();
    ExpectWidens<f16>();
    ExpectNarrows<bf16>([](float x) { return ToBf16(x); });
    ExpectNarrows<f16>([](float x) { return ToF16(x); });
  });
}

TEST(Convert, TouchesExactlyTheLength) {
  ForEachDispatchTarget([] {
    for (const size_t n : kLengths) {
      // Exactly n elements on the heap: the address sanitizer sees a read or write past them.
      std::vector<float> in(n), back(n + 1, 77.0f);
      std::vector<bf16> narrow(n);
      for (size_t i = 0; i < n; ++i) in[i] = static_cast<float>(i) - 8.0f;
      FromFloats(in.data(), n, narrow.data());
      ToFloats(narrow.data(), n, back.data());
      for (size_t i = 0; i < n; ++i) ASSERT_EQ(back[i], in[i]) << n;
      ASSERT_EQ(back[n], 77.0f);
    }
  });
}

TEST(Quantize, StaysWithinHalfAStep) {
  ForEachDispatchTarget([] {
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    for (const size_t n : kLengths) {
      std::vector<float> in(n), back(n);
      for (float& x : in) x = normal(generator) * 5;
      float max = 0;
      for (const float x : in) max = std::max(max, std::abs(x));
      EXPECT_EQ(MaxAbs(in.data(), n), max);

      for (const int limit : {127, 63}) {
        std::vector<int8_t> s8(n);
        const float scale = QuantizeS8(in.data(), n, limit, s8.data());
        EXPECT_FLOAT_EQ(scale, max / limit);
        ToFloats(s8.data(), n, scale, back.data());
        for (size_t i = 0; i < n; ++i) {
          ASSERT_LE(std::abs(s8[i]), limit);
          ASSERT_LE(std::abs(back[i] - in[i]), scale * 0.5001f) << n;
        }
      }
      std::vector<uint8_t> u8(n);
      const float scale = QuantizeU8(in.data(), n, u8.data());
      for (size_t i = 0; i < n; ++i)
        ASSERT_LE(std::abs((u8[i] - 128) * scale - in[i]), scale * 0.5001f);
    }
  });
}

TEST(Quantize, ZerosHaveScaleZero) {
  ForEachDispatchTarget([] {
    const std::vector<float> zeros(19);
    std::vector<int8_t> s8(19, 1);
    std::vector<uint8_t> u8(19, 1);
    EXPECT_EQ(QuantizeS8(zeros.data(), 19, 127, s8.data()), 0.0f);
    EXPECT_EQ(QuantizeU8(zeros.data(), 19, u8.data()), 0.0f);
    EXPECT_EQ(s8, std::vector<int8_t>(19, 0));
    EXPECT_EQ(u8, std::vector<uint8_t>(19, 128));
  });
}

}  // namespace
}  // namespace kvasir
