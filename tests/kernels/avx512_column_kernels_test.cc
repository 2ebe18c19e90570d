// Column products against sums written out, for all numbers of rows that their register tiles are
// cut from; of int8 with extreme values.
#include "runtime/kernels/columns/avx512_column_kernels.h"

#include <cmath>
#include <cstring>
#include <random>

#include "base/aligned_buffer.h"
#include "gtest/gtest.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/convert.h"

namespace kvasir {
namespace {

bool HasVnni() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

TEST(VnniColumnProduct, IsExact) {
  if (!HasVnni()) GTEST_SKIP() << "no AVX-512 VNNI here: its column products were not tested";
  std::mt19937 random(5);
  // Extremes more often than not: pairs of them overflow 16 bits.
  const auto value = [&] {
    const auto v = random() % 512;
    return static_cast<int>(v < 256 ? v : v < 384 ? 0 : 255);
  };
  for (const size_t depth : {64, 128, 320, 704}) {
    AlignedBuffer<int8_t> w(depth * kAmxColumns);  // [depth / 4][64][4]
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<int8_t>(value() - 128);
    for (const size_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 37, 64}) {
      AlignedBuffer<uint8_t> x(rows * depth);
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(value());
      AlignedBuffer<int32_t> sums(rows * kAmxColumns);
      VnniColumnProduct(x.data(), depth, rows, depth, w.data(), w.data() + w.size(),
                        StreamAsking::kHalf, sums.data());
      for (size_t r = 0; r < rows; ++r) {
        for (size_t j = 0; j < kAmxColumns; ++j) {
          int32_t want = 0;
          for (size_t k = 0; k < depth; ++k)
            want += x[r * depth + k] * w[(k / 4 * kAmxColumns + j) * 4 + k % 4];
          ASSERT_EQ(sums[r * kAmxColumns + j], want)
              << "row " << r << " of " << rows << ", column " << j << ", depth " << depth;
        }
      }
    }
  }
}

// Of numbers around `scale`.
void FillNormal(float scale, std::mt19937& random, AlignedBuffer<bf16>* values) {
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < values->size(); ++i) {
    const float value = scale * normal(random);
    FromFloats(&value, 1, values->data() + i);
  }
}

// Near sums in double; a row's are the same to the bit alone and beside others, and whatever is
// asked for ahead.
TEST(Bf16ColumnProduct, IsNearAndDoesNotDependOnOtherRows) {
  if (!HasBf16Products())
    GTEST_SKIP() << "no AVX-512 BF16 here: its column products were not tested";
  std::mt19937 random(6);
  const auto fill = [&](AlignedBuffer<bf16>* values) { FillNormal(1.0f, random, values); };
  for (const size_t depth : {32, 96, 320, 1088}) {
    AlignedBuffer<bf16> w(depth * kAmxColumns);  // [depth / 2][64][2]
    fill(&w);
    for (const size_t rows : {1, 2, 3, 6, 7, 12, 13, 37, 64}) {
      const size_t stride = depth + 32;
      AlignedBuffer<bf16> x(rows * stride);
      fill(&x);
      AlignedBuffer<float> sums(rows * kAmxColumns), alone(kAmxColumns);
      Bf16ColumnProduct(x.data(), stride, rows, depth, w.data(), w.data() + w.size(),
                        StreamAsking::kHalf, sums.data());
      for (size_t r = 0; r < rows; ++r) {
        Bf16ColumnProduct(x.data() + r * stride, stride, 1, depth, w.data(), w.data(),
                          StreamAsking::kAllLines, alone.data());
        for (size_t j = 0; j < kAmxColumns; ++j) {
          double want = 0, magnitude = 0;
          for (size_t k = 0; k < depth; ++k) {
            const double product = static_cast<double>(ToFloat(x[r * stride + k])) *
                                   ToFloat(w[(k / 2 * kAmxColumns + j) * 2 + k % 2]);
            want += product;
            magnitude += std::abs(product);
          }
          ASSERT_NEAR(sums[r * kAmxColumns + j], want, 1e-6 * magnitude)
              << "row " << r << " of " << rows << ", column " << j << ", depth " << depth;
          ASSERT_EQ(sums[r * kAmxColumns + j], alone[j]) << "row " << r << " of " << rows;
        }
      }
    }
  }
}

float Flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? 0.0f : value; }

// Two FMAs for each word of inputs and weights, from the weights as they are and from panels: as
// std::fma has them, and as VDPBF16PS has them where it rounds like this; with sums and inputs that
// are too small for normal numbers too.
TEST(FmaColumnProduct, HasTheBitsOfBf16Products) {
  if (!HasBf16Products()) GTEST_SKIP() << "no AVX-512 BF16 here: FMAs had nothing to equal";
  std::mt19937 random(7);
  for (const float scale : {1.0f, 1e-19f, 1e-38f}) {  // of weights and inputs
    for (const size_t depth : {32, 96, 320, 1088}) {
      AlignedBuffer<bf16> w(depth * kAmxColumns);
      FillNormal(scale, random, &w);
      AlignedBuffer<float> panel(depth * kAmxColumns);
      WidenPanel(w.data(), kAmxColumns, depth, panel.data());
      for (const size_t rows : {1, 2, 3, 6, 7, 12, 13, 37, 64}) {
        AlignedBuffer<bf16> x(rows * depth);
        FillNormal(scale, random, &x);
        AlignedBuffer<float> wide(rows * depth), want(rows * kAmxColumns), sums(rows * kAmxColumns),
            of_panel(rows * kAmxColumns), by_cpu(rows * kAmxColumns);
        ToFloats(x.data(), x.size(), wide.data());
        for (size_t i = 0; i < want.size(); ++i) {
          const size_t row = i / kAmxColumns, column = i % kAmxColumns;
          float sum = 0;
          for (size_t k = 0; k < depth; ++k) {
            const size_t input = k ^ 1;  // the second of each pair first
            const bf16 weight = w[(k / 2 * kAmxColumns + column) * 2 + input % 2];
            sum = Flushed(
                std::fma(Flushed(wide[row * depth + input]), Flushed(ToFloat(weight)), sum));
          }
          want[i] = sum;
        }
        const void* const end = w.data() + w.size();
        FmaColumnProduct(wide.data(), depth, rows, depth, w.data(), end, StreamAsking::kAllLines,
                         sums.data());
        FmaPanelProduct(wide.data(), rows, depth, panel.data(), /*first=*/true,
                        {reinterpret_cast<const char*>(w.data()), 7}, of_panel.data(), kAmxColumns);
        Bf16ColumnProduct(x.data(), depth, rows, depth, w.data(), end, StreamAsking::kHalf,
                          by_cpu.data());
        for (size_t i = 0; i < want.size(); ++i) {
          ASSERT_EQ(sums[i], want[i]) << i << ", " << rows << " rows of " << depth << ", " << scale;
          ASSERT_EQ(of_panel[i], want[i])
              << i << ", " << rows << " rows of " << depth << ", " << scale;
          if (!FmasEqualBf16Products()) continue;
          ASSERT_EQ(by_cpu[i], want[i])
              << i << ", " << rows << " rows of " << depth << ", " << scale;
        }
      }
    }
  }
  if (!FmasEqualBf16Products()) GTEST_SKIP() << "this CPU's VDPBF16PS rounds in another way";
}

}  // namespace
}  // namespace kvasir
