#include "runtime/kernels/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

TEST(PackKeys, TransposesAndPadsWithZeros) {
  ForEachDispatchTarget([] {
    for (const size_t dim : {1, 3, 8, 12, 33, 64}) {
      for (const size_t count : {1, 2, 4, 5, 15, 16, 17, 32}) {
        const size_t columns = RoundUpColumns(count);
        const Matrix keys = RandomMatrix(count, dim, 11);
        std::vector<bf16> narrow;
        std::vector<int8_t> s8;
        std::vector<float> scales(count);
        for (const float x : keys.data) {
          narrow.push_back(ToBf16(x));
          s8.push_back(static_cast<int8_t>(std::clamp(x * 40, -127.f, 127.f)));
        }
        for (size_t t = 0; t < count; ++t) scales[t] = 0.5f + static_cast<float>(t);
        std::vector<float> out(dim * columns, NAN), out_narrow(out), out_s8(out);
        PackKeys(keys.data.data(), count, dim, keys.data.data(), out.data(), columns);
        PackKeys(narrow.data(), count, dim, nullptr, out_narrow.data(), columns);
        PackKeys(s8.data(), scales.data(), count, dim, nullptr, out_s8.data(), columns);
        for (size_t d = 0; d < dim; ++d) {
          for (size_t t = 0; t < columns; ++t) {
            const size_t from = t * dim + d, to = d * columns + t;
            ASSERT_EQ(out[to], t < count ? keys.data[from] : 0.0f) << dim << " " << count;
            ASSERT_EQ(out_narrow[to], t < count ? ToFloat(narrow[from]) : 0.0f);
            ASSERT_EQ(out_s8[to], t < count ? s8[from] * scales[t] : 0.0f);
          }
        }
      }
    }
  });
}

TEST(TileProduct, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const int64_t rows : {1, 2, 3, 5, 6, 7, 12, 17}) {
      for (const int64_t depth : {1, 8, 40, 257}) {
        for (const int64_t cols : {16, 48, 64, 80, 144}) {
          const Matrix a = RandomMatrix(rows, depth, 1), b = RandomMatrix(depth, cols, 2);
          Matrix transposed(cols, depth), c(rows, cols);
          for (int64_t k = 0; k < depth; ++k) {
            for (int64_t j = 0; j < cols; ++j) transposed.at(j, k) = b.at(k, j);
          }
          TileProduct(a.data.data(), depth, rows, depth, b.data.data(), cols, cols, c.data.data(),
                      cols);
          const Matrix expected = reference::Multiply(a, transposed, {});
          ASSERT_LT(reference::MaxDifference(c, expected), depth * 4 * 0x1p-24)
              << rows << " " << depth << " " << cols;
        }
      }
    }
  });
}

// The promise that makes decode, prefill and any batch agree to the bit.
TEST(TileProduct, ARowDoesNotDependOnItsNeighbours) {
  ForEachDispatchTarget([] {
    const int64_t rows = 13, depth = 72, cols = 80;
    const Matrix a = RandomMatrix(rows, depth, 1), b = RandomMatrix(depth, cols, 2);
    Matrix together(rows, cols), alone(rows, cols);
    TileProduct(a.data.data(), depth, rows, depth, b.data.data(), cols, cols, together.data.data(),
                cols);
    for (int64_t r = 0; r < rows; ++r) {
      TileProduct(a.row(r), depth, 1, depth, b.data.data(), cols, cols, alone.row(r), cols);
    }
    EXPECT_EQ(together.data, alone.data);
  });
}

TEST(SoftmaxRow, AgreesWithNaive) {
  ForEachDispatchTarget([] {
    for (const size_t count : {1, 2, 15, 16, 17, 100, 256}) {
      const size_t padded = RoundUpColumns(count) + 32;
      const float scale = 0.37f;
      Matrix row = RandomMatrix(1, padded, 21, 30.0f);
      for (size_t i = count; i < padded; ++i) row.data[i] = NAN;  // left over from another row
      std::vector<double> want(count);
      double max = -1e300, sum = 0;
      for (size_t i = 0; i < count; ++i)
        max = std::max(max, want[i] = static_cast<double>(row.data[i]) * scale);
      for (double& w : want) sum += w = std::exp2(w - max);
      const RowStatistics statistics = SoftmaxRow(row.data.data(), count, padded, scale);
      // The exponent's own rounding, up to 60 * 2^-24 in base-2 units, dominates.
      ASSERT_NEAR(statistics.max, max, std::abs(max) * 1e-6);
      ASSERT_NEAR(statistics.sum, sum, sum * 1e-5);
      for (size_t i = 0; i < padded; ++i) {
        ASSERT_NEAR(row.data[i], i < count ? want[i] : 0.0,
                    i < count ? want[i] * 1e-5 + 1e-37 : 0.0)
            << i;
      }
    }
  });
}

TEST(BlendRow, ScalesAndAdds) {
  ForEachDispatchTarget([] {
    for (const int64_t n : {1, 16, 21}) {
      Matrix acc = RandomMatrix(1, n, 1);
      const Matrix x = RandomMatrix(1, n, 2), before = acc;
      BlendRow(acc.data.data(), 0.25f, x.data.data(), 3.0f, n);
      for (int64_t i = 0; i < n; ++i)
        ASSERT_NEAR(acc.data[i], before.data[i] * 0.25 + x.data[i] * 3.0, 1e-6);
    }
  });
}

}  // namespace
}  // namespace kvasir
