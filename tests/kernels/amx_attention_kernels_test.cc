#include "runtime/kernels/amx_attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::Narrow;
using reference::RandomMatrix;

UpcomingLines none;

class AmxAttentionKernels : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasAmxProducts()) GTEST_SKIP() << "SKIPPED: no AMX that this process may use";
    ConfigureAmxTiles();
  }
  void TearDown() override {
    if (HasAmxProducts()) ReleaseAmxTiles();
  }
};

std::vector<int8_t> Bytes(const Matrix& m) {
  std::vector<int8_t> out;
  for (const float x : m.data) {
    out.push_back(static_cast<int8_t>(std::lround(std::clamp(x * 60, -127.0f, 127.0f))));
  }
  return out;
}

// Rows of `dim` elements as rows of whole tiles of words; what is past them is 0, and rows past the
// last hold nonsense.
template <typename T>
std::vector<uint32_t> Words(const std::vector<T>& rows, size_t dim, size_t* depth) {
  const size_t count = rows.size() / dim;
  *depth = RoundUpAmx((dim * sizeof(T) + 3) / 4);
  std::vector<uint32_t> words(RoundUpAmx(count) * *depth, 0x7fc07fc0);  // NaN in bf16
  for (size_t r = 0; r < count; ++r) {
    std::fill_n(&words[r * *depth], *depth, 0u);
    std::memcpy(&words[r * *depth], &rows[r * dim], dim * sizeof(T));
  }
  return words;
}

// The sums in double of what the words hold.
template <typename T>
double Dot(const T* a, const T* b, size_t dim) {
  double sum = 0;
  for (size_t d = 0; d < dim; ++d) {
    if constexpr (sizeof(T) == 1) {
      sum += static_cast<double>(a[d]) * b[d];
    } else {
      sum += static_cast<double>(ToFloat(a[d])) * ToFloat(b[d]);
    }
  }
  return sum;
}

// Keys packed with PackKeyWords, and the padding that a product of whole tiles needs.
template <typename T>
std::vector<uint32_t> PackedKeys(const std::vector<T>& keys, size_t count, size_t dim, size_t depth,
                                 size_t columns) {
  std::vector<uint32_t> packed(depth * columns, 0u);
  PackKeyWords(keys.data(), count, dim, nullptr, packed.data(), columns);
  return packed;
}

TEST_F(AmxAttentionKernels, ProductsAgreeWithNaiveForEveryNumberOfRows) {
  for (const size_t rows : {1, 2, 15, 16, 17, 31, 32, 33, 48, 70}) {
    for (const size_t count : {1, 16, 31, 64}) {
      for (const size_t dim : {2, 24, 32, 64, 80, 128, 576}) {
        const size_t columns = RoundUpColumns(count);
        size_t depth = 0;
        const auto q = Narrow(RandomMatrix(rows, dim, 1)), k = Narrow(RandomMatrix(count, dim, 2));
        const auto words = Words(q, dim, &depth);
        const auto packed = PackedKeys(k, count, dim, depth, columns);
        std::vector<float> c(rows * columns + 1, -1);
        AmxProduct(words.data(), depth, rows, depth, packed.data(), columns, columns, c.data(),
                   columns, false, &none);
        for (size_t r = 0; r < rows; ++r) {
          for (size_t t = 0; t < count; ++t) {
            ASSERT_NEAR(c[r * columns + t], Dot(&q[r * dim], &k[t * dim], dim), dim * 8 * 0x1p-24)
                << rows << " rows, " << count << " keys of " << dim;
          }
        }
        ASSERT_EQ(c[rows * columns], -1);

        const auto q8 = Bytes(RandomMatrix(rows, dim, 3)), k8 = Bytes(RandomMatrix(count, dim, 4));
        const auto words8 = Words(q8, dim, &depth);
        const auto packed8 = PackedKeys(k8, count, dim, depth, columns);
        std::vector<int32_t> dots(rows * columns + 1, -1);
        AmxProduct(words8.data(), depth, rows, depth, packed8.data(), columns, columns, dots.data(),
                   columns, false, &none);
        for (size_t r = 0; r < rows; ++r) {
          int sum = 0;
          for (size_t d = 0; d < dim; ++d) sum += q8[r * dim + d];
          for (size_t t = 0; t < count; ++t) {
            ASSERT_EQ(dots[r * columns + t] - 128 * sum, Dot(&q8[r * dim], &k8[t * dim], dim));
          }
        }
        ASSERT_EQ(dots[rows * columns], -1);
      }
    }
  }
}

// The decode way and the prefill way must agree to the bit: which one runs depends on the batch.
TEST_F(AmxAttentionKernels, ScoreKeysEqualsThePackedProductToTheBit) {
  for (size_t rows = 1; rows <= kMaxAmxStreamedRows; rows += rows == 5 ? 8 : 1) {
    for (const size_t count : {1, 16, 31, 32, 48, 64}) {
      for (const size_t dim : {2, 32, 64, 80, 128, 256}) {
        const size_t columns = RoundUpColumns(count);
        size_t depth = 0;
        std::vector<uint32_t> query_columns(RoundUpAmx(dim) * RoundUpAmx(rows));
        std::vector<uint32_t> sums(RoundUpAmx(rows) * columns, 0x7fc07fc0);
        const size_t stride = 16 * columns;
        const auto q = Narrow(RandomMatrix(rows, dim, 1)), k = Narrow(RandomMatrix(count, dim, 2));
        const auto words = Words(q, dim, &depth);
        std::vector<float> packed(rows * columns), streamed(rows * columns, NAN);
        AmxProduct(words.data(), depth, rows, depth,
                   PackedKeys(k, count, dim, depth, columns).data(), columns, columns,
                   packed.data(), columns, false, &none);
        AmxQueryColumns(words.data(), depth, rows, depth, query_columns.data());
        AmxScoreKeys(k.data(), count, dim, k.data(), query_columns.data(), rows,
                     reinterpret_cast<float*>(sums.data()), stride);
        AmxScoreRows(sums.data(), stride, rows, columns, streamed.data(), columns);
        ASSERT_EQ(packed, streamed) << rows << " rows, " << count << " keys of " << dim;

        const auto q8 = Bytes(RandomMatrix(rows, dim, 3)), k8 = Bytes(RandomMatrix(count, dim, 4));
        const auto words8 = Words(q8, dim, &depth);
        std::vector<int32_t> dots(rows * columns, -1);
        AmxQueryColumns(words8.data(), depth, rows, depth, query_columns.data());
        AmxScoreKeys(k8.data(), count, dim, nullptr, query_columns.data(), rows,
                     reinterpret_cast<int32_t*>(sums.data()), stride);
        AmxScoreRows(sums.data(), stride, rows, columns, dots.data(), columns);
        for (size_t r = 0; r < rows; ++r) {
          for (size_t t = 0; t < columns; ++t) {
            ASSERT_EQ(dots[r * columns + t],
                      t < count ? Dot(&q8[r * dim], &k8[t * dim], dim) : 0.0);
          }
        }
      }
    }
  }
}

TEST_F(AmxAttentionKernels, MixesPackedValues) {
  for (const size_t rows : {1, 5, 16, 17, 40}) {
    for (const size_t count : {1, 16, 31, 64, 200, 256}) {
      for (const size_t dim : {1, 16, 24, 40, 64, 72, 113, 128}) {
        const size_t width = RoundUpAmx(dim), padded = (count + 63) / 64 * 64;
        const size_t first = count / 2 / 16 * 16;  // in two runs, as blocks come
        std::vector<uint32_t> packed(padded / 2 * width, 0x7fc07fc0);

        const auto v = Narrow(RandomMatrix(count, dim, 5));
        Matrix w = RandomMatrix(rows, padded, 6);
        for (size_t r = 0; r < rows; ++r) std::fill(w.row(r) + count, w.row(r) + padded, 0.0f);
        size_t depth = 0;
        const auto narrow = Narrow(w);
        const auto weights = Words(narrow, padded, &depth);
        AmxPackValues(v.data(), first, first, dim, dim, v.data(), packed.data());
        AmxPackValues(v.data() + first * dim, count - first, padded - first, dim, dim, nullptr,
                      packed.data() + first / 2 * width);
        std::vector<float> mix(rows * width + 1, -1);
        AmxProduct(weights.data(), depth, rows, padded / 2, packed.data(), width, width, mix.data(),
                   width, false, &none);
        for (size_t r = 0; r < rows; ++r) {
          for (size_t j = 0; j < width; ++j) {
            double want = 0;
            for (size_t t = 0; t < count && j < dim; ++t) {
              want +=
                  static_cast<double>(ToFloat(narrow[r * padded + t])) * ToFloat(v[t * dim + j]);
            }
            ASSERT_NEAR(mix[r * width + j], want, count * 8 * 0x1p-24) << count << " x " << dim;
          }
        }
        ASSERT_EQ(mix[rows * width], -1);

        // int8, with the largest and smallest weights there are.
        const auto v8 = Bytes(RandomMatrix(count, dim, 7));
        std::vector<int16_t> w16(rows * padded, 0);
        for (size_t r = 0; r < rows; ++r) {
          for (size_t t = 0; t < count; ++t) {
            w16[r * padded + t] =
                static_cast<int16_t>(t % 3 == 0 ? 32767 : (r * 977 + t * 131) % 32768);
          }
        }
        std::vector<int8_t> high(RoundUpAmx(rows) * padded, 1);
        std::vector<uint8_t> low(high.size(), 1);
        SplitWeights(w16.data(), w16.size(), high.data(), low.data());
        AmxPackValues(v8.data(), first, first, dim, dim, v8.data(), packed.data());
        AmxPackValues(v8.data() + first * dim, count - first, padded - first, dim, dim, nullptr,
                      packed.data() + first / 4 * width);
        std::vector<int32_t> sums(rows * width + 1, -1);
        AmxWeightProduct(reinterpret_cast<const uint32_t*>(high.data()),
                         reinterpret_cast<const uint32_t*>(low.data()), padded / 4, rows,
                         padded / 4, packed.data(), width, width, sums.data(), width, false, &none);
        for (size_t r = 0; r < rows; ++r) {
          for (size_t j = 0; j < width; ++j) {
            int64_t want = 0;
            for (size_t t = 0; t < count && j < dim; ++t)
              want += int64_t{w16[r * padded + t]} * v8[t * dim + j];
            ASSERT_EQ(sums[r * width + j], want) << count << " x " << dim;
          }
        }
        ASSERT_EQ(sums[rows * width], -1);
      }
    }
  }
}

TEST_F(AmxAttentionKernels, SplitWeightsKeepsEveryValue) {
  std::vector<int16_t> weights(65536);
  for (int i = 0; i < 65536; ++i) weights[i] = static_cast<int16_t>(i - 32768);
  std::vector<int8_t> high(weights.size());
  std::vector<uint8_t> low(weights.size());
  SplitWeights(weights.data(), weights.size(), high.data(), low.data());
  for (size_t i = 0; i < weights.size(); ++i) ASSERT_EQ(256 * high[i] + low[i], weights[i]);
}

}  // namespace
}  // namespace kvasir
