#include "base/bf16.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "base/e4m3.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

// What the bits of a half mean, by the standard's definition.
double HalfByDefinition(uint16_t bits) {
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 0x1f;
  const int mantissa = bits & 0x3ff;
  if (exponent == 31)
    return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(F16, EveryValueConvertsExactlyAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const f16 half{static_cast<uint16_t>(bits)};
    const double expected = HalfByDefinition(half.bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(ToFloat(half))) << bits;
      ASSERT_TRUE(std::isnan(ToFloat(ToF16(ToFloat(half))))) << bits;
      continue;
    }
    ASSERT_EQ(ToFloat(half), expected) << bits;
    ASSERT_EQ(ToF16(ToFloat(half)).bits, half.bits) << bits;
  }
}

// Between two neighbours: the middle goes to the even one, its float neighbours to the nearer one.
template <typename T, typename Convert>
void ExpectRoundsToNearestEven(uint32_t last, const Convert& convert) {
  for (uint32_t bits = 0; bits < last; ++bits) {
    const T low{static_cast<uint16_t>(bits)}, high{static_cast<uint16_t>(bits + 1)};
    const float middle =
        static_cast<float>((static_cast<double>(ToFloat(low)) + ToFloat(high)) / 2);
    const uint16_t even = bits % 2 == 0 ? low.bits : high.bits;
    ASSERT_EQ(convert(middle).bits, even) << bits;
    ASSERT_EQ(convert(-middle).bits, even | 0x8000) << bits;
    ASSERT_EQ(convert(std::nextafter(middle, 0.0f)).bits, low.bits) << bits;
    ASSERT_EQ(convert(std::nextafter(middle, INFINITY)).bits, high.bits) << bits;
  }
}

TEST(F16, RoundsToNearestEvenEverywhere) {
  ExpectRoundsToNearestEven<f16>(0x7bff, [](float x) { return ToF16(x); });
}

TEST(F16, OverflowsToInfinityFromTheMiddleAboveTheLargest) {
  EXPECT_EQ(ToF16(65519.996f).bits, 0x7bff);
  EXPECT_EQ(ToF16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(ToF16(-1e30f).bits, 0xfc00);
}

TEST(Bf16, EveryValueConvertsExactlyAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bf16 value{static_cast<uint16_t>(bits)};
    if (std::isnan(ToFloat(value))) {
      ASSERT_TRUE(std::isnan(ToFloat(ToBf16(ToFloat(value))))) << bits;
      continue;
    }
    ASSERT_EQ(ToBf16(ToFloat(value)).bits, value.bits) << bits;
  }
}

TEST(Bf16, RoundsToNearestEvenEverywhere) {
  ExpectRoundsToNearestEven<bf16>(0x7f7f, [](float x) { return ToBf16(x); });
}

TEST(Bf16, NanWithLowBitsOnlyStaysNan) {
  EXPECT_TRUE(std::isnan(ToFloat(ToBf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(E4m3, EveryCodeIsTheNumberOfItsDefinition) {
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    const float value = E4m3ToFloat(static_cast<uint8_t>(bits));
    EXPECT_EQ(value, bits < 128 ? magnitude : -magnitude) << bits;
    EXPECT_EQ(std::signbit(value), bits >= 128) << bits;
    EXPECT_EQ(IsE4m3Nan(static_cast<uint8_t>(bits)), bits == 0x7f || bits == 0xff) << bits;
  }
}

}  // namespace
}  // namespace kvasir
