#include "runtime/kernels/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/kernels/streams/f32_streaming_kernels.h"
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

// Rows of K or V of a type, which the calls below take with their scales where they have any.
template <typename T>
struct StoredRows {
  StoredRows(int64_t count, int64_t stride, uint32_t seed) : data(count * stride), scales(count) {
    const Matrix matrix = RandomMatrix(count, stride, seed);
    for (size_t i = 0; i < data.size(); ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        data[i] = ToBf16(matrix.data[i]);
      } else {
        data[i] = static_cast<int8_t>(std::clamp(matrix.data[i] * 60, -128.f, 127.f));
      }
    }
    for (int64_t t = 0; t < count; ++t) scales[t] = 0.3f + 0.7f * static_cast<float>(t);
  }
  float at(size_t i, size_t row) const {
    return std::is_same_v<T, bf16> ? ToFloat(data[i]) : ToFloat(data[i]) * scales[row];
  }
  std::vector<T> data;
  std::vector<float> scales;
};

void Pack(const StoredRows<bf16>& keys, size_t count, size_t dim, float* out, size_t stride) {
  PackKeys(keys.data.data(), count, dim, nullptr, out, stride);
}
void Pack(const StoredRows<int8_t>& keys, size_t count, size_t dim, float* out, size_t stride) {
  PackKeys(keys.data.data(), keys.scales.data(), count, dim, nullptr, out, stride);
}
void Score(const StoredRows<bf16>& keys, size_t count, size_t dim, const Matrix& queries,
           Matrix* scores) {
  StreamKeys(keys.data.data(), count, dim, nullptr, queries.data.data(), queries.rows,
             scores->data.data(), scores->cols);
}
void Score(const StoredRows<int8_t>& keys, size_t count, size_t dim, const Matrix& queries,
           Matrix* scores) {
  StreamKeys(keys.data.data(), keys.scales.data(), count, dim, nullptr, queries.data.data(),
             queries.rows, scores->data.data(), scores->cols);
}
void Mix(const StoredRows<bf16>& values, size_t first, size_t count, size_t stride,
         const Matrix& weights, Matrix* mix) {
  StreamValues(values.data.data() + first * stride, count, stride, mix->cols, nullptr,
               weights.data.data() + first, weights.cols, weights.rows, mix->data.data(),
               mix->cols);
}
void Mix(const StoredRows<int8_t>& values, size_t first, size_t count, size_t stride,
         const Matrix& weights, Matrix* mix) {
  StreamValues(values.data.data() + first * stride, values.scales.data() + first, count, stride,
               mix->cols, nullptr, weights.data.data() + first, weights.cols, weights.rows,
               mix->data.data(), mix->cols);
}

template <typename T>
void CheckStreamedRows(size_t count, size_t dim) {
  const size_t columns = RoundUpColumns(count), stride = dim + 16;
  const StoredRows<T> keys(count, dim, 1), values(count, stride, 2);
  std::vector<float> key_columns(dim * columns), value_rows(count * dim);
  Pack(keys, count, dim, key_columns.data(), columns);
  for (size_t t = 0; t < count; ++t) {
    for (size_t d = 0; d < dim; ++d) value_rows[t * dim + d] = values.at(t * stride + d, t);
  }
  for (size_t rows = 1; rows <= kMaxF32StreamedRows; ++rows) {
    const Matrix queries = RandomMatrix(rows, dim, 3);
    Matrix want(rows, columns), scores(rows, columns);
    TileProduct(queries.data.data(), dim, rows, dim, key_columns.data(), columns, columns,
                want.data.data(), columns);
    std::fill(scores.data.begin(), scores.data.end(), 5.0f);
    Score(keys, count, dim, queries, &scores);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t t = 0; t < columns; ++t)
        ASSERT_EQ(scores.at(r, t), t < count ? want.at(r, t) : 5.0f)
            << r << " of " << rows << ", " << t << " of " << count << ", dim " << dim;
    }
    const Matrix weights = RandomMatrix(rows, count, 4);
    Matrix mix_want(rows, dim), mix(rows, dim);
    TileProduct(weights.data.data(), count, rows, count, value_rows.data(), dim, dim,
                mix_want.data.data(), dim);
    const size_t half = count / 2;  // in two calls, which go on where the other ended
    Mix(values, 0, half, stride, weights, &mix);
    Mix(values, half, count - half, stride, weights, &mix);
    ASSERT_EQ(mix.data, mix_want.data) << rows << " rows, " << count << ", dim " << dim;
  }
}

// To the bit, so that it never matters which of the two a row meets.
TEST(StreamedRows, GiveWhatPackedOnesGive) {
  bool streamed = false;
  ForEachDispatchTarget([&streamed] {
    for (const size_t dim : {16, 48, 64, 80, 128}) {
      if (!StreamsF32(1, dim, dim)) continue;
      streamed = true;
      for (const size_t count : {1, 7, 8, 16, 19, 32, 61, 64}) {
        CheckStreamedRows<bf16>(count, dim);
        CheckStreamedRows<int8_t>(count, dim);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  });
  if (!streamed) GTEST_SKIP() << "no AVX2 here: streamed rows were not tested";
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
