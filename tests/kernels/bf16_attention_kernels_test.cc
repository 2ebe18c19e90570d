#include "runtime/kernels/bf16_attention_kernels.h"

#include <algorithm>
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
  for (const float x : m.data)
    out.push_back(static_cast<int8_t>(std::lround(std::max(-127.0f, std::min(127.0f, x * 60)))));
  return out;
}

size_t PanelsOf(size_t columns) { return (columns + kPanelColumns - 1) / kPanelColumns; }

TEST_F(Bf16AttentionKernels, PackKeyPairsTransposes) {
  for (const size_t dim : {2, 8, 30, 32, 64, 72, 96, 256}) {
    for (const size_t count : {1, 3, 15, 16, 17, 32, 48}) {
      const size_t columns = RoundUpColumns(count);
      const Matrix keys = RandomMatrix(count, dim, 3);
      const std::vector<bf16> narrow = Narrow(keys);
      const std::vector<int8_t> bytes = Bytes(keys);
      std::vector<uint32_t> out(dim / 2 * columns, 0xffffffff), out_bytes(out);
      PackKeyPairs(narrow.data(), count, dim, nullptr, out.data(), columns);
      PackKeyPairs(bytes.data(), count, dim, bytes.data(), out_bytes.data(), columns);
      for (size_t d = 0; d < dim; ++d) {
        for (size_t t = 0; t < columns; ++t) {
          const uint32_t at = d / 2 * columns + t;
          ASSERT_EQ(Half(out[at], d % 2), t < count ? ToFloat(narrow[t * dim + d]) : 0.0f)
              << dim << " " << count;
          ASSERT_EQ(Half(out_bytes[at], d % 2), t < count ? bytes[t * dim + d] : 0.0f);
        }
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, PackValuePairsInterleaves) {
  for (const size_t dim : {1, 8, 16, 31, 64, 72, 128}) {
    for (const size_t count : {1, 2, 3, 16, 17}) {
      const size_t columns = RoundUpColumns(dim);
      const size_t pairs = (count + 1) / 2;
      const size_t panel_stride = pairs * kPanelColumns;
      const Matrix values = RandomMatrix(count, dim, 4);
      const std::vector<bf16> narrow = Narrow(values);
      const std::vector<int8_t> bytes = Bytes(values);
      std::vector<uint32_t> out(PanelsOf(columns) * panel_stride, 0xffffffff), out_bytes(out);
      PackValuePairs(narrow.data(), count, dim, nullptr, out.data(), panel_stride);
      PackValuePairs(bytes.data(), count, dim, bytes.data(), out_bytes.data(), panel_stride);
      for (size_t t = 0; t < 2 * pairs; ++t) {
        for (size_t j = 0; j < columns; ++j) {
          const bool real = t < count && j < dim;
          const size_t at =
              j / kPanelColumns * panel_stride + t / 2 * kPanelColumns + j % kPanelColumns;
          ASSERT_EQ(Half(out[at], t % 2), real ? ToFloat(narrow[t * dim + j]) : 0.0f)
              << dim << " " << count;
          ASSERT_EQ(Half(out_bytes[at], t % 2), real ? bytes[t * dim + j] : 0.0f);
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
            packed[k * cols + j] =
                ToBf16(b.at(j, 2 * k)).bits | uint32_t{ToBf16(b.at(j, 2 * k + 1)).bits} << 16;
          }
        }
        std::vector<uint32_t> words(rows * pairs);
        std::memcpy(words.data(), narrow_a.data(), words.size() * 4);
        Matrix c(rows, cols), alone(rows, cols);
        TileProductPairs(words.data(), pairs, rows, pairs, packed.data(), cols, cols, c.data.data(),
                         cols);
        const Matrix expected = reference::Multiply(rounded_a, rounded_b, {});
        ASSERT_LT(reference::MaxDifference(c, expected), 2 * pairs * 8 * 0x1p-24);
        for (int64_t r = 0; r < rows; ++r) {
          TileProductPairs(words.data() + r * pairs, pairs, 1, pairs, packed.data(), cols, cols,
                           alone.row(r), cols);
        }
        ASSERT_EQ(c.data, alone.data) << rows;
      }
    }
  }
}

// The decode way and the prefill way must agree to the bit: which one runs depends on the batch.
template <typename T>
void ExpectStreamedEqualsPacked(const std::vector<T>& keys, const std::vector<T>& values,
                                size_t count, size_t k_dim, size_t v_dim, size_t rows) {
  const size_t columns = RoundUpColumns(count), v_stride = RoundUpColumns(v_dim), pairs = k_dim / 2;
  const std::vector<bf16> q = Narrow(RandomMatrix(rows, k_dim, 7)), w = [&] {
    std::vector<bf16> weights = Narrow(RandomMatrix(rows, columns, 8));
    for (size_t r = 0; r < rows; ++r)
      std::fill(&weights[r * columns + count], &weights[r * columns] + columns, bf16{});
    return weights;
  }();
  std::vector<uint32_t> queries(rows * pairs), weights(rows * columns / 2);
  std::memcpy(queries.data(), q.data(), queries.size() * 4);
  std::memcpy(weights.data(), w.data(), weights.size() * 4);

  std::vector<uint32_t> packed_keys(pairs * columns),
      packed_values(PanelsOf(v_stride) * ((count + 1) / 2) * kPanelColumns);
  std::vector<float> scores(rows * columns), streamed_scores(rows * columns, NAN);
  PackKeyPairs(keys.data(), count, k_dim, nullptr, packed_keys.data(), columns);
  TileProductPairs(queries.data(), pairs, rows, pairs, packed_keys.data(), columns, columns,
                   scores.data(), columns);
  ScoreKeys(keys.data(), count, k_dim, keys.data(), queries.data(), rows, streamed_scores.data(),
            columns);
  ASSERT_EQ(scores, streamed_scores) << rows << " rows, " << count << " keys of " << k_dim;

  std::vector<float> mix(rows * v_stride), streamed_mix(rows * v_stride, 0.0f);
  const size_t value_pairs = (count + 1) / 2, panel_stride = value_pairs * kPanelColumns;
  PackValuePairs(values.data(), count, v_dim, nullptr, packed_values.data(), panel_stride);
  for (size_t j = 0; j < v_stride; j += kPanelColumns) {
    TileProductPairs(weights.data(), columns / 2, rows, value_pairs,
                     packed_values.data() + j * value_pairs, kPanelColumns,
                     std::min(kPanelColumns, v_stride - j), mix.data() + j, v_stride);
  }
  // In two runs, as blocks come.
  const size_t first = count / 2 / 16 * 16;
  MixValues(values.data(), first, v_dim, values.data(), weights.data(), columns / 2, rows,
            streamed_mix.data(), v_stride);
  MixValues(values.data() + first * v_dim, count - first, v_dim, nullptr,
            weights.data() + first / 2, columns / 2, rows, streamed_mix.data(), v_stride);
  ASSERT_EQ(mix, streamed_mix) << rows << " rows, " << count << " values of " << v_dim;
}

TEST_F(Bf16AttentionKernels, StreamedEqualsPackedToTheBit) {
  for (size_t rows = 1; rows <= kMaxStreamedRows; ++rows) {
    for (const size_t count : {1, 16, 31, 64}) {
      for (const size_t k_dim : {2, 24, 64, 80}) {
        for (const size_t v_dim : {1, 16, 24, 40, 64, 96, 113, 128}) {
          const Matrix keys = RandomMatrix(count, k_dim, 1), values = RandomMatrix(count, v_dim, 2);
          ExpectStreamedEqualsPacked(Narrow(keys), Narrow(values), count, k_dim, v_dim, rows);
          ExpectStreamedEqualsPacked(Bytes(keys), Bytes(values), count, k_dim, v_dim, rows);
        }
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, SoftmaxRowBf16AgreesWithNaive) {
  for (const size_t count : {1, 2, 15, 16, 17, 64, 100, 256}) {
    const size_t padded = RoundUpColumns(count) + 32;
    const float scale = 0.37f;
    Matrix scores = RandomMatrix(1, padded, 21, 30.0f);
    for (size_t i = count; i < padded; ++i) scores.data[i] = NAN;  // left over from another row
    std::vector<float> key_scales(RoundUpColumns(count), 0.0f),
        value_scales(RoundUpColumns(count), 0.0f);
    for (size_t i = 0; i < count; ++i) {
      key_scales[i] = 0.5f + 0.01f * static_cast<float>(i);
      value_scales[i] = 2.0f - 0.005f * static_cast<float>(i);
    }
    for (const bool int8 : {false, true}) {
      std::vector<double> want(count);
      double max = -1e300, sum = 0;
      for (size_t i = 0; i < count; ++i) {
        want[i] = static_cast<double>(scores.data[i]) * scale * (int8 ? key_scales[i] : 1.0f);
        max = std::max(max, want[i]);
      }
      for (double& w : want) sum += w = std::exp2(w - max);
      std::vector<float> row = scores.data;
      std::vector<bf16> weights(padded, bf16{0x7fc0});
      const RowStatistics statistics =
          int8 ? SoftmaxRowBf16(row.data(), count, padded, scale, key_scales.data(),
                                value_scales.data(), weights.data())
               : SoftmaxRowBf16(row.data(), count, padded, scale, weights.data());
      ASSERT_NEAR(statistics.max, max, std::abs(max) * 1e-6);
      ASSERT_NEAR(statistics.sum, sum, sum * (int8 ? 2e-5 : 0x1p-8));
      double stored_sum = 0;
      for (size_t i = 0; i < padded; ++i) {
        const double stored = ToFloat(weights[i]);
        stored_sum += stored;
        if (i >= count) {
          ASSERT_EQ(stored, 0.0);
        } else {
          const double weight = want[i] * (int8 ? value_scales[i] : 1.0f);
          ASSERT_NEAR(stored, weight, weight * (0x1p-8 + 2e-5) + 1e-37);
        }
      }
      if (!int8) {
        ASSERT_NEAR(statistics.sum, stored_sum, stored_sum * 1e-6);
      }
    }
  }
}

TEST_F(Bf16AttentionKernels, FollowTheAllowedTargets) {
  ForEachDispatchTarget(
      [] { EXPECT_EQ(HasBf16Products(), (hwy::SupportedTargets() & HWY_AVX3) != 0); });
}

}  // namespace
}  // namespace kvasir
