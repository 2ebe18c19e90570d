#include "runtime/kernels/bf16_attention_kernels.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "runtime/kernels/attention_kernels.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

class Bf16AttentionKernels : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasBf16Products()) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  }
};

float Half(uint32_t pair, int which) {
  return ToFloat(bf16{static_cast<uint16_t>(which == 0 ? pair & 0xffff : pair >> 16)});
}

std::vector<bf16> Narrow(const Matrix& m) {
  std::vector<bf16> out;
  for (const float x : m.data) out.push_back(ToBf16(x));
  return out;
}

std::vector<int8_t> Bytes(const Matrix& m) {
  std::vector<int8_t> out;
  for (const float x : m.data) out.push_back(static_cast<int8_t>(std::lround(std::max(-127.0f, std::min(127.0f, x * 60)))));
  return out;
}

TEST_F(Bf16AttentionKernels, PackKeyPairsTransposes) {
  for (const size_t dim : {2, 8, 30, 32, 64, 72, 96, 256}) {
    for (const size_t count : {1, 3, 15, 16, 17, 32, 48}) {
      const size_t columns = RoundUpColumns(count);
      const Matrix keys = RandomMatrix(count, dim, 3);
      const std::vector<bf16> narrow = Narrow(keys);
      const std::vector<int8_t> bytes = Bytes(keys);
      std::vector<uint32_t> out(dim / 2 * columns, 0xffffffff), out_bytes(out);
      PackKeyPairs(narrow.data(), count, dim, out.data(), columns);
      PackKeyPairs(bytes.data(), count, dim, out_bytes.data(), columns);
      for (size_t d = 0; d < dim; ++d) {
        for (size_t t = 0; t < columns; ++t) {
          const uint32_t at = d / 2 * columns + t;
          ASSERT_EQ(Half(out[at], d % 2), t < count ? ToFloat(narrow[t * dim + d]) : 0.0f) << dim << " " << count;
          ASSERT_EQ(Half(out_bytes[at], d % 2), t < count ? bytes[t * dim + d] : 0.0f);
        }
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, PackValuePairsInterleaves) {
  for (const size_t dim : {1, 8, 16, 31, 64, 72, 128}) {
    for (const size_t count : {1, 2, 3, 16, 17}) {
      const size_t stride = RoundUpColumns(dim);
      const size_t pairs = (count + 1) / 2;
      const Matrix values = RandomMatrix(count, dim, 4);
      const std::vector<bf16> narrow = Narrow(values);
      const std::vector<int8_t> bytes = Bytes(values);
      std::vector<uint32_t> out(pairs * stride, 0xffffffff), out_bytes(out);
      PackValuePairs(narrow.data(), count, dim, out.data(), stride);
      PackValuePairs(bytes.data(), count, dim, out_bytes.data(), stride);
      for (size_t t = 0; t < 2 * pairs; ++t) {
        for (size_t j = 0; j < stride; ++j) {
          const bool real = t < count && j < dim;
          ASSERT_EQ(Half(out[t / 2 * stride + j], t % 2), real ? ToFloat(narrow[t * dim + j]) : 0.0f) << dim << " " << count;
          ASSERT_EQ(Half(out_bytes[t / 2 * stride + j], t % 2), real ? bytes[t * dim + j] : 0.0f);
        }
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, TileProductAgreesWithNaiveAndIgnoresNeighbours) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 13}) {
    for (const int64_t pairs : {1, 4, 20, 128}) {
      for (const int64_t cols : {16, 32, 48, 64, 112}) {
        const Matrix a = RandomMatrix(rows, 2 * pairs, 5), b = RandomMatrix(cols, 2 * pairs, 6);
        Matrix rounded_a = a, rounded_b = b;
        std::vector<uint32_t> packed(pairs * cols);
        const std::vector<bf16> narrow_a = Narrow(a);
        for (size_t i = 0; i < a.data.size(); ++i) rounded_a.data[i] = ToFloat(narrow_a[i]);
        for (size_t i = 0; i < b.data.size(); ++i) rounded_b.data[i] = ToFloat(ToBf16(b.data[i]));
        for (int64_t k = 0; k < pairs; ++k) {
          for (int64_t j = 0; j < cols; ++j) {
            packed[k * cols + j] = ToBf16(b.at(j, 2 * k)).bits | uint32_t{ToBf16(b.at(j, 2 * k + 1)).bits} << 16;
          }
        }
        std::vector<uint32_t> words(rows * pairs);
        std::memcpy(words.data(), narrow_a.data(), words.size() * 4);
        Matrix c(rows, cols), alone(rows, cols);
        TileProductPairs(words.data(), pairs, rows, pairs, packed.data(), cols, cols, c.data.data(), cols);
        const Matrix expected = reference::Multiply(rounded_a, rounded_b, {});
        ASSERT_LT(reference::MaxDifference(c, expected), 2 * pairs * 8 * 0x1p-24);
        for (int64_t r = 0; r < rows; ++r) {
          TileProductPairs(words.data() + r * pairs, pairs, 1, pairs, packed.data(), cols, cols, alone.row(r), cols);
        }
        ASSERT_EQ(c.data, alone.data) << rows;
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, FollowTheAllowedTargets) {
  ForEachDispatchTarget([] {
    EXPECT_EQ(HasBf16Products(), (hwy::SupportedTargets() & HWY_AVX3) != 0);
  });
}

}  // namespace
}  // namespace kvasir
