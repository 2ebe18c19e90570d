#include "runtime/kernels/bf16_attention_kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"
#include "runtime/kernels/streams/fma_streaming_kernels.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::Narrow;
using reference::RandomMatrix;

class Bf16AttentionKernels : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasBf16Products()) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  }
};

UpcomingLines none;

float Half(uint32_t pair, int which) {
  return ToFloat(bf16{static_cast<uint16_t>(which == 0 ? pair & 0xffff : pair >> 16)});
}

std::vector<int8_t> Bytes(const Matrix& m) {
  std::vector<int8_t> out;
  for (const float x : m.data)
    out.push_back(static_cast<int8_t>(std::lround(std::max(-127.0f, std::min(127.0f, x * 60)))));
  return out;
}

// Element `which` of a key word: what the instructions multiply the query's element by.
float KeyElement(const bf16*, uint32_t word, size_t which) { return Half(word, which); }
float KeyElement(const int8_t*, uint32_t word, size_t which) {
  return static_cast<float>((word >> 8 * which & 0xff)) - 128;
}
float ValueElement(const bf16*, uint32_t word, size_t which) { return Half(word, which); }
float ValueElement(const int8_t*, uint32_t word, size_t which) {
  return static_cast<int16_t>(word >> 16 * which);
}
float ToFloat(int8_t x) { return x; }

template <typename T>
void ExpectPackedKeys(const std::vector<T>& keys, size_t count, size_t dim) {
  constexpr size_t kElements = kKeyWordElements<T>;
  const size_t columns = RoundUpColumns(count), words = (dim + kElements - 1) / kElements;
  std::vector<uint32_t> out(words * columns, 0x12345678);
  PackKeyWords(keys.data(), count, dim, keys.data(), out.data(), columns);
  for (size_t d = 0; d < words * kElements; ++d) {
    for (size_t t = 0; t < columns; ++t) {
      const uint32_t word = out[d / kElements * columns + t];
      ASSERT_EQ(KeyElement(keys.data(), word, d % kElements),
                t < count && d < dim ? ToFloat(keys[t * dim + d]) : 0.0f)
          << count << " keys of " << dim << ", element " << d << " of key " << t;
    }
  }
}

TEST_F(Bf16AttentionKernels, PackKeyWordsTransposes) {
  for (const size_t dim : {2, 8, 30, 32, 64, 72, 96, 256}) {
    for (const size_t count : {1, 3, 15, 16, 17, 32, 48}) {
      const Matrix keys = RandomMatrix(count, dim, 3);
      ExpectPackedKeys(Narrow(keys), count, dim);
      ExpectPackedKeys(Bytes(keys), count, dim);
      ExpectPackedKeys(Bytes(RandomMatrix(count, dim + 1, 3)), count, dim + 1);
    }
  }
}

template <typename T>
void ExpectPackedValues(const std::vector<T>& values, size_t count, size_t dim, size_t column) {
  const size_t width = std::min(kPanelColumns, dim - column), columns = RoundUpColumns(width);
  const size_t pairs = (count + 1) / 2;
  std::vector<uint32_t> out(pairs * kPanelColumns, 0x12345678);
  PackValueWords(values.data() + column, count, dim, width, values.data(), out.data());
  for (size_t t = 0; t < 2 * pairs; ++t) {
    for (size_t j = 0; j < columns; ++j) {
      ASSERT_EQ(ValueElement(values.data(), out[t / 2 * kPanelColumns + j], t % 2),
                t < count && j < width ? ToFloat(values[t * dim + column + j]) : 0.0f)
          << count << " values of " << dim << ", element " << j << " of value " << t;
    }
  }
}

TEST_F(Bf16AttentionKernels, PackValueWordsInterleaves) {
  for (const size_t dim : {1, 8, 16, 31, 64, 72, 128}) {
    for (const size_t count : {1, 2, 3, 16, 17}) {
      const Matrix values = RandomMatrix(count, dim, 4);
      for (size_t column = 0; column < dim; column += kPanelColumns) {
        ExpectPackedValues(Narrow(values), count, dim, column);
        ExpectPackedValues(Bytes(values), count, dim, column);
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, ProductsOfBf16AgreeWithNaiveAndIgnoreNeighbours) {
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
            packed[k * cols + j] =
                ToBf16(b.at(j, 2 * k)).bits | uint32_t{ToBf16(b.at(j, 2 * k + 1)).bits} << 16;
          }
        }
        std::vector<uint32_t> words(rows * pairs);
        std::memcpy(words.data(), narrow_a.data(), words.size() * 4);
        Matrix c(rows, cols), alone(rows, cols), values(rows, cols);
        KeyProduct(words.data(), pairs, rows, pairs, packed.data(), cols, cols, c.data.data(), cols,
                   &none);
        ValueProduct(words.data(), pairs, rows, pairs, packed.data(), cols, cols,
                     values.data.data(), cols, &none);
        const Matrix expected = reference::Multiply(rounded_a, rounded_b, {});
        ASSERT_LT(reference::MaxDifference(c, expected), 2 * pairs * 8 * 0x1p-24);
        for (int64_t r = 0; r < rows; ++r) {
          KeyProduct(words.data() + r * pairs, pairs, 1, pairs, packed.data(), cols, cols,
                     alone.row(r), cols, &none);
        }
        ASSERT_EQ(c.data, alone.data) << rows;
        ASSERT_EQ(c.data, values.data) << rows;
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, ProductsOfInt8AreExact) {
  for (const size_t rows : {1, 5, 7, 13}) {
    for (const size_t count : {2, 33, 256}) {
      for (const size_t dim : {1, 24, 66, 128}) {
        const std::vector<int8_t> keys = Bytes(RandomMatrix(count, dim, 6));
        const size_t words = (dim + 3) / 4, columns = RoundUpColumns(count);
        std::vector<uint32_t> queries(rows * words), packed(words * columns);
        auto* bytes = reinterpret_cast<int8_t*>(queries.data());
        for (size_t i = 0; i < rows * words * 4; ++i) {
          bytes[i] = i % (4 * words) < dim
                         ? static_cast<int8_t>(static_cast<int>(i * 37 % 255) - 127)
                         : int8_t{0};
        }
        std::vector<int32_t> dots(rows * columns);
        PackKeyWords(keys.data(), count, dim, nullptr, packed.data(), columns);
        KeyProduct(queries.data(), words, rows, words, packed.data(), columns, columns, dots.data(),
                   columns, &none);
        for (size_t r = 0; r < rows; ++r) {
          for (size_t t = 0; t < count; ++t) {
            int64_t want = 0;
            for (size_t d = 0; d < dim; ++d)
              want += bytes[r * words * 4 + d] * (keys[t * dim + d] + 128);
            ASSERT_EQ(dots[r * columns + t], want) << rows << " " << count << " " << dim;
          }
        }
        // The largest weights there are.
        const size_t pairs = (count + 1) / 2, width = std::min(dim, kPanelColumns);
        std::vector<int16_t> weights(rows * pairs * 2, 0);
        for (size_t r = 0; r < rows; ++r) {
          for (size_t t = 0; t < count; ++t)
            weights[r * pairs * 2 + t] = static_cast<int16_t>(32767 - 1000 * r);
        }
        std::vector<uint32_t> weight_words(rows * pairs), panel(pairs * kPanelColumns);
        std::memcpy(weight_words.data(), weights.data(), weights.size() * 2);
        std::vector<int32_t> mix(rows * RoundUpColumns(width));
        PackValueWords(keys.data(), count, dim, width, nullptr, panel.data());
        ValueProduct(weight_words.data(), pairs, rows, pairs, panel.data(), kPanelColumns,
                     RoundUpColumns(width), mix.data(), RoundUpColumns(width), &none);
        for (size_t r = 0; r < rows; ++r) {
          for (size_t j = 0; j < width; ++j) {
            int64_t want = 0;
            for (size_t t = 0; t < count; ++t)
              want += weights[r * pairs * 2 + t] * int64_t{keys[t * dim + j]};
            ASSERT_EQ(mix[r * RoundUpColumns(width) + j], want);
          }
        }
      }
    }
  }
}

// The decode way and the prefill way must agree to the bit: which one runs depends on the batch.
template <typename T, typename Sum>
void ExpectStreamedEqualsPacked(const std::vector<T>& keys, const std::vector<T>& values,
                                size_t count, size_t k_dim, size_t v_dim, size_t rows, Sum any) {
  const size_t columns = RoundUpColumns(count), v_stride = RoundUpColumns(v_dim);
  const size_t words = (k_dim + kKeyWordElements<T> - 1) / kKeyWordElements<T>;
  // Any words will do as long as elements past the end are 0.
  const std::vector<bf16> q = Narrow(RandomMatrix(rows, 2 * words, 7)), w = [&] {
    std::vector<bf16> weights = Narrow(RandomMatrix(rows, columns, 8));
    for (size_t r = 0; r < rows; ++r)
      std::fill(&weights[r * columns + count], &weights[r * columns] + columns, bf16{});
    return weights;
  }();
  std::vector<uint32_t> queries(rows * words), weights(rows * columns / 2);
  std::memcpy(queries.data(), q.data(), queries.size() * 4);
  std::memcpy(weights.data(), w.data(), weights.size() * 4);

  const size_t value_words = (count + 1) / 2;
  std::vector<uint32_t> packed_keys(words * columns), packed_values(value_words * kPanelColumns);
  std::vector<Sum> scores(rows * columns), streamed_scores(rows * columns, any);
  PackKeyWords(keys.data(), count, k_dim, nullptr, packed_keys.data(), columns);
  KeyProduct(queries.data(), words, rows, words, packed_keys.data(), columns, columns,
             scores.data(), columns, &none);
  // In two runs, as blocks come.
  const size_t first = count / 2 / 16 * 16;
  const auto runs_of = [&](const std::vector<T>& from, size_t dim) {
    return std::array{RowRun<T>{from.data(), first, from.data()},
                      RowRun<T>{from.data() + first * dim, count - first, nullptr}};
  };
  ScoreKeys(runs_of(keys, k_dim), k_dim, queries.data(), rows, streamed_scores.data(), columns);
  ASSERT_EQ(scores, streamed_scores) << rows << " rows, " << count << " keys of " << k_dim;

  std::vector<Sum> mix(rows * v_stride), streamed_mix(rows * v_stride, any);
  for (size_t j = 0; j < v_dim; j += kPanelColumns) {
    const size_t width = std::min(kPanelColumns, v_dim - j);
    PackValueWords(values.data() + j, count, v_dim, width, nullptr, packed_values.data());
    ValueProduct(weights.data(), columns / 2, rows, value_words, packed_values.data(),
                 kPanelColumns, RoundUpColumns(width), mix.data() + j, v_stride, &none);
  }
  MixValues(runs_of(values, v_dim), v_dim, v_dim, weights.data(), columns / 2, rows,
            streamed_mix.data(), v_stride);
  ASSERT_EQ(mix, streamed_mix) << rows << " rows, " << count << " values of " << v_dim;

  // Whether or not this CPU would choose them.
  if constexpr (std::is_same_v<T, bf16>) {
    if (!FmasEqualBf16Products()) return;
    streamed_scores.assign(streamed_scores.size(), any);
    streamed_mix.assign(streamed_mix.size(), any);
    if (FmasScoreKeys(k_dim)) {
      ScoreKeysByFmas(runs_of(keys, k_dim), k_dim, queries.data(), rows, streamed_scores.data(),
                      columns);
      ASSERT_EQ(scores, streamed_scores) << rows << " rows, " << count << " keys of " << k_dim;
    }
    if (FmasMixValues(v_dim)) {
      MixValuesByFmas(runs_of(values, v_dim), v_dim, v_dim, weights.data(), columns / 2, rows,
                      streamed_mix.data(), v_stride);
      ASSERT_EQ(mix, streamed_mix) << rows << " rows, " << count << " values of " << v_dim;
    }
  }
}

TEST_F(Bf16AttentionKernels, StreamedEqualsPackedToTheBit) {
  for (size_t rows = 1; rows <= kMaxStreamedRows; ++rows) {
    for (const size_t count : {1, 16, 31, 64}) {
      for (const size_t k_dim : {2, 24, 64, 80}) {
        for (const size_t v_dim : {1, 16, 24, 40, 64, 96, 113, 128}) {
          const Matrix keys = RandomMatrix(count, k_dim, 1), values = RandomMatrix(count, v_dim, 2);
          ExpectStreamedEqualsPacked(Narrow(keys), Narrow(values), count, k_dim, v_dim, rows,
                                     std::numeric_limits<float>::quiet_NaN());
          ExpectStreamedEqualsPacked(Bytes(keys), Bytes(values), count, k_dim, v_dim, rows, -1);
        }
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, StreamedEqualsPackedAroundTheLeastNormalNumber) {
  constexpr size_t kCount = 48, kDim = 64;
  Matrix keys = RandomMatrix(kCount, kDim, 1), values = RandomMatrix(kCount, kDim, 2);
  // Normal numbers and denormal ones, and products of both.
  for (Matrix* matrix : {&keys, &values}) {
    for (float& x : matrix->data) x *= 2e-38f;
  }
  for (const size_t rows : {1, 4, 12}) {
    ExpectStreamedEqualsPacked(Narrow(keys), Narrow(values), kCount, kDim, kDim, rows,
                               std::numeric_limits<float>::quiet_NaN());
  }
}

TEST_F(Bf16AttentionKernels, SoftmaxRowBf16AgreesWithNaive) {
  for (const size_t count : {1, 2, 15, 16, 17, 33, 64, 100, 111, 256}) {
    const size_t padded = RoundUpColumns(count) + 32;
    const float scale = 0.37f;
    Matrix scores = RandomMatrix(1, padded, 21, 30.0f);
    for (size_t i = count; i < padded; ++i) scores.data[i] = NAN;  // left over from another row
    std::vector<double> want(count);
    double max = -1e300, sum = 0, stored_sum = 0;
    for (size_t i = 0; i < count; ++i) {
      want[i] = static_cast<double>(scores.data[i]) * scale;
      max = std::max(max, want[i]);
    }
    for (double& w : want) sum += w = std::exp2(w - max);
    std::vector<bf16> weights(padded + 1, bf16{0x7fc0});
    const RowStatistics statistics =
        SoftmaxRowBf16(scores.data.data(), count, padded, scale, weights.data());
    ASSERT_NEAR(statistics.max, max, std::abs(max) * 1e-6);
    ASSERT_NEAR(statistics.sum, sum, sum * 0x1p-8);
    for (size_t i = 0; i < padded; ++i) {
      const double stored = ToFloat(weights[i]), weight = i < count ? want[i] : 0.0;
      stored_sum += stored;
      ASSERT_NEAR(stored, weight, weight * (0x1p-8 + 2e-5) + (i < count ? 1e-37 : 0.0)) << i;
    }
    ASSERT_NEAR(statistics.sum, stored_sum, stored_sum * 1e-6);
    ASSERT_EQ(weights[padded].bits, 0x7fc0);
  }
}

TEST_F(Bf16AttentionKernels, SoftmaxRowInt8AgreesWithNaive) {
  for (const size_t count : {1, 2, 15, 16, 17, 33, 64, 100, 111, 256}) {
    const size_t columns = RoundUpColumns(count), padded = columns + 32;
    const float scale = 0.37e-3f;
    const int32_t offset = -70000;
    const Matrix random = RandomMatrix(1, padded, 21, 30000.0f);
    std::vector<int32_t> dots(padded, 1 << 30);  // left over from another row
    std::vector<float> key_scales(columns, 0.0f), value_scales(columns, 0.0f), scratch(columns);
    std::vector<double> want(count);
    double max = -1e300, sum = 0, largest = 0;
    for (size_t i = 0; i < count; ++i) {
      dots[i] = static_cast<int32_t>(random.data[i]) + offset;
      key_scales[i] = 0.5f + 0.01f * static_cast<float>(i);
      value_scales[i] = 2.0f - 0.005f * static_cast<float>(i);
      want[i] = static_cast<double>(dots[i] - offset) * key_scales[i] * scale;
      max = std::max(max, want[i]);
    }
    for (double& w : want) sum += w = std::exp2(w - max);
    for (size_t i = 0; i < count; ++i) largest = std::max(largest, want[i] *= value_scales[i]);
    std::vector<int16_t> weights(padded, 7);
    const Int8RowStatistics statistics =
        SoftmaxRowInt8(dots.data(), offset, count, padded, scale, key_scales.data(),
                       value_scales.data(), scratch.data(), weights.data());
    ASSERT_NEAR(statistics.max, max, std::abs(max) * 1e-6);
    ASSERT_NEAR(statistics.sum, sum, sum * 2e-5);
    ASSERT_NEAR(statistics.step * 32767, largest, largest * 2e-5);
    for (size_t i = 0; i < padded; ++i) {
      const double weight = i < count ? want[i] : 0.0;
      ASSERT_NEAR(statistics.step * weights[i], weight, 0.51 * statistics.step + weight * 2e-5);
    }
    std::vector<int16_t> halves(padded, 7);  // the two halves give the same bits
    ScoreRowInt8(dots.data(), offset, count, scale, key_scales.data(), scratch.data());
    const Int8RowStatistics again =
        WeighRowInt8(count, padded, value_scales.data(), scratch.data(), halves.data());
    ASSERT_EQ(halves, weights);
    ASSERT_EQ(again.max, statistics.max);
    ASSERT_EQ(again.sum, statistics.sum);
  }
  // V of zeros: nothing to weigh.
  const std::vector<int32_t> dots(16, 5);
  const std::vector<float> key_scales(16, 1.0f), value_scales(16, 0.0f);
  std::vector<float> scratch(16);
  std::vector<int16_t> weights(16, 7);
  const Int8RowStatistics statistics =
      SoftmaxRowInt8(dots.data(), 0, 16, 16, 1.0f, key_scales.data(), value_scales.data(),
                     scratch.data(), weights.data());
  ASSERT_EQ(statistics.sum, 16.0f);
  ASSERT_EQ(statistics.step, 0.0f);
  ASSERT_EQ(weights, std::vector<int16_t>(16, 0));
}

TEST(UpcomingLines, ComeInOrderAndOnce) {
  alignas(64) static const char memory[64 * 8] = {};
  UpcomingLines upcoming;
  upcoming.Add(memory, 64 * 3);
  upcoming.Add(memory + 64 * 5, 65);  // a part of a line is a line
  std::vector<const char*> seen;
  for (;;) {
    const UpcomingLines::Lines lines = upcoming.Take(2);
    if (lines.count == 0) break;
    ASSERT_LE(lines.count, 2);
    for (size_t i = 0; i < lines.count; ++i) seen.push_back(lines[i]);
  }
  EXPECT_EQ(seen, (std::vector<const char*>{memory, memory + 64, memory + 128, memory + 320,
                                            memory + 384}));
  upcoming.Add(memory, 64);
  upcoming.Clear();
  EXPECT_EQ(upcoming.Take(1).count, 0);
}

TEST_F(Bf16AttentionKernels, FollowTheAllowedTargets) {
  constexpr int64_t kAvx512OrBetter = 2 * HWY_AVX3 - 1;  // better targets are smaller
  ForEachDispatchTarget(
      [] { EXPECT_EQ(HasBf16Products(), (hwy::SupportedTargets() & kAvx512OrBetter) != 0); });
}

}  // namespace
}  // namespace kvasir
