// VnniColumnProduct against sums written out, for all numbers of rows that its register tiles are
// cut from, and extreme values.
#include "runtime/kernels/vnni_column_kernels.h"

#include <random>

#include "base/aligned_buffer.h"
#include "gtest/gtest.h"

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
      VnniColumnProduct(x.data(), rows, depth, w.data(), w.data() + w.size(), sums.data());
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

}  // namespace
}  // namespace kvasir
