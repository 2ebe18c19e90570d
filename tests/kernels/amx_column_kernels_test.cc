// AmxColumnProduct against sums written out, for every number of rows, alone and beside others.
#include "runtime/kernels/columns/amx_column_kernels.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/aligned_buffer.h"
#include "gtest/gtest.h"
#include "runtime/kernels/amx_attention_kernels.h"

namespace kvasir {
namespace {

// w: [depth][64], as the kernel reads it: [depth / words][64][words of kAmxStepDepth / 16].
template <typename W>
AlignedBuffer<W> Packed(const std::vector<W>& w, size_t depth) {
  constexpr size_t kWord = 4 / sizeof(W);
  AlignedBuffer<W> packed(depth * kAmxColumns);
  for (size_t k = 0; k < depth; ++k) {
    for (size_t j = 0; j < kAmxColumns; ++j) {
      packed.data()[(k / kWord * kAmxColumns + j) * kWord + k % kWord] = w[k * kAmxColumns + j];
    }
  }
  return packed;
}

class AmxColumnProductTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasAmxProducts()) GTEST_SKIP() << "no AMX here: its column products were not tested";
    ConfigureAmxTiles();
  }
  void TearDown() override {
    if (HasAmxProducts()) ReleaseAmxTiles();
  }

  std::mt19937 random_{7};
};

constexpr size_t kRowCounts[] = {1, 2, 7, 15, 16, 17, 32, 33, 47, 63, 64};

TEST_F(AmxColumnProductTest, Int8IsExact) {
  std::uniform_int_distribution<int> byte(0, 255);
  for (const size_t depth : {64, 128, 256, 320, 704}) {
    std::vector<int8_t> w(depth * kAmxColumns);
    for (int8_t& v : w) v = static_cast<int8_t>(byte(random_) - 128);
    const AlignedBuffer<int8_t> packed = Packed(w, depth);
    AlignedBuffer<uint8_t> x(kMaxAmxColumnRows * depth);
    for (size_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<uint8_t>(byte(random_));
    for (const size_t rows : kRowCounts) {
      AlignedBuffer<int32_t> sums(kMaxAmxColumnRows * kAmxColumns);
      AmxColumnProduct(x.data(), rows, depth, packed.data(), packed.data() + packed.size(),
                       sums.data());
      for (size_t r = 0; r < rows; ++r) {
        for (size_t j = 0; j < kAmxColumns; ++j) {
          int32_t sum = 0;
          for (size_t k = 0; k < depth; ++k)
            sum += x.data()[r * depth + k] * w[k * kAmxColumns + j];
          ASSERT_EQ(sums.data()[r * kAmxColumns + j], sum)
              << "row " << r << " of " << rows << ", column " << j << ", depth " << depth;
        }
      }
    }
  }
}

TEST_F(AmxColumnProductTest, Bf16IsNearAndARowIsTheSameAloneAndBesideOthers) {
  std::normal_distribution<float> normal;
  for (const size_t depth : {32, 64, 160, 512, 1056}) {
    std::vector<bf16> w(depth * kAmxColumns);
    for (bf16& v : w) v = ToBf16(normal(random_));
    const AlignedBuffer<bf16> packed = Packed(w, depth);
    AlignedBuffer<bf16> x(kMaxAmxColumnRows * depth);
    for (size_t i = 0; i < x.size(); ++i) x.data()[i] = ToBf16(normal(random_));
    AlignedBuffer<float> all(kMaxAmxColumnRows * kAmxColumns);
    AmxColumnProduct(x.data(), kMaxAmxColumnRows, depth, packed.data(),
                     packed.data() + packed.size(), all.data());
    for (size_t r = 0; r < kMaxAmxColumnRows; ++r) {
      for (size_t j = 0; j < kAmxColumns; ++j) {
        double sum = 0, magnitude = 0;
        for (size_t k = 0; k < depth; ++k) {
          const double product = static_cast<double>(ToFloat(x.data()[r * depth + k])) *
                                 ToFloat(w[k * kAmxColumns + j]);
          sum += product;
          magnitude += std::abs(product);
        }
        ASSERT_NEAR(all.data()[r * kAmxColumns + j], sum, 1e-6 * magnitude)
            << "row " << r << ", column " << j << ", depth " << depth;
      }
    }
    for (const size_t rows : kRowCounts) {
      AlignedBuffer<float> sums(kMaxAmxColumnRows * kAmxColumns);
      AmxColumnProduct(x.data(), rows, depth, packed.data(), packed.data() + packed.size(),
                       sums.data());
      ASSERT_EQ(std::memcmp(sums.data(), all.data(), rows * kAmxColumns * sizeof(float)), 0)
          << rows << " rows, depth " << depth;
    }
  }
}

}  // namespace
}  // namespace kvasir
