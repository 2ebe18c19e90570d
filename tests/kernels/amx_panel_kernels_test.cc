// AmxPanelProduct against sums written out and, to the bit, against AmxColumnProduct: for odd and
// even numbers of row tiles, and depths of one panel, several, and a part of one.
#include "runtime/kernels/amx_panel_kernels.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "base/aligned_buffer.h"
#include "gtest/gtest.h"
#include "runtime/kernels/amx_attention_kernels.h"

namespace kvasir {
namespace {

class AmxPanelProductTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasAmxProducts()) GTEST_SKIP() << "no AMX here: its panel products were not tested";
    ConfigureAmxTiles();
  }
  void TearDown() override {
    if (HasAmxProducts()) ReleaseAmxTiles();
  }

  // Values whose bytes are any, as numbers that sum without overflow.
  template <typename T>
  AlignedBuffer<T> Random(size_t size) {
    AlignedBuffer<T> values(size);
    for (size_t i = 0; i < size; ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        values[i] = ToBf16(normal_(random_));
      } else {
        values[i] = static_cast<T>(byte_(random_));
      }
    }
    return values;
  }

  // sums of `row_tiles` tiles of rows, as runtime/ops/packed_products.cc goes through them.
  template <typename T, typename Sum>
  AlignedBuffer<Sum> Panels(const AlignedBuffer<T>& x, size_t row_tiles, size_t depth,
                            const void* weights) {
    const size_t row_bytes = depth * sizeof(T), steps = row_bytes / 64;
    const size_t stride = steps * kAmxTileBytes;
    AlignedBuffer<uint8_t> tiles(row_tiles * stride), panel(kAmxPanelBytes);
    for (size_t t = 0; t < row_tiles; ++t)
      PackAmxRowTiles(x.data() + t * 16 * depth, row_bytes, tiles.data() + t * stride);
    AlignedBuffer<Sum> sums(row_tiles * 16 * kAmxColumns);
    std::memset(sums.data(), 0x55, sums.size() * sizeof(Sum));
    for (size_t step = 0; step < steps; step += kMaxAmxPanelSteps) {
      const size_t count = std::min(kMaxAmxPanelSteps, steps - step);
      for (const size_t half : {0, 1}) {
        PackAmxPanel(static_cast<const char*>(weights) + step * kAmxStepBytes, half, count,
                     panel.data());
        AmxPanelProduct(reinterpret_cast<const T*>(tiles.data() + step * kAmxTileBytes), row_tiles,
                        stride, panel.data(), count, step == 0,
                        {static_cast<const char*>(weights), 5},
                        sums.data() + half * kAmxPanelColumns);
      }
    }
    return sums;
  }

  std::mt19937 random_{11};
  std::normal_distribution<float> normal_;
  std::uniform_int_distribution<int> byte_{0, 255};
};

TEST_F(AmxPanelProductTest, Int8IsExact) {
  for (const size_t depth : {64, 512, 576, 1088}) {
    const auto weights = Random<int8_t>(depth * kAmxColumns);  // [depth / 4][64][4]
    for (const size_t row_tiles : {1, 2, 3, 4}) {
      const auto x = Random<uint8_t>(row_tiles * 16 * depth);
      const auto sums = Panels<uint8_t, int32_t>(x, row_tiles, depth, weights.data());
      for (size_t r = 0; r < row_tiles * 16; ++r) {
        for (size_t j = 0; j < kAmxColumns; ++j) {
          int32_t want = 0;
          for (size_t k = 0; k < depth; ++k) {
            want += x.data()[r * depth + k] * weights.data()[(k / 4 * kAmxColumns + j) * 4 + k % 4];
          }
          ASSERT_EQ(sums.data()[r * kAmxColumns + j], want)
              << "row " << r << " of " << row_tiles << " tiles, column " << j << ", depth "
              << depth;
        }
      }
    }
  }
}

TEST_F(AmxPanelProductTest, Bf16GivesTheBitsOfColumnProducts) {
  for (const size_t depth : {32, 256, 288, 544}) {
    const auto weights = Random<bf16>(depth * kAmxColumns);
    for (const size_t row_tiles : {1, 2, 3, 4}) {
      const auto x = Random<bf16>(row_tiles * 16 * depth);
      const auto sums = Panels<bf16, float>(x, row_tiles, depth, weights.data());
      AlignedBuffer<float> want(sums.size());
      AmxColumnProduct(x.data(), row_tiles * 16, depth, weights.data(),
                       weights.data() + weights.size(), want.data());
      ASSERT_EQ(std::memcmp(sums.data(), want.data(), sums.size() * sizeof(float)), 0)
          << row_tiles << " tiles of rows, depth " << depth;
    }
  }
}

}  // namespace
}  // namespace kvasir
