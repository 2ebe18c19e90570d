#include "runtime/kernels/pick_kernels.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/kernels/attention_kernels.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::Narrow;
using reference::RandomMatrix;

Matrix Rounded(const Matrix& m) {
  Matrix out = m;
  for (float& x : out.data) x = ToFloat(ToBf16(x));
  return out;
}

TEST(ScoreColumns, AgreesWithNaiveForAnyGroup) {
  ForEachDispatchTarget([] {
    for (const size_t count : {16, 32, 48, 128}) {
      for (const size_t heads : {1, 2, 3, 4, 7, 8, 32}) {
        const size_t k_dim = 40, rank = 5;
        const Matrix columns = RandomMatrix(k_dim, count, 3), q = RandomMatrix(heads, rank, 4);
        const std::vector<bf16> narrow = Narrow(columns);
        const std::vector<int32_t> dims = {0, 3, 17, 38, 39};
        const size_t stride = count + 16;
        std::vector<float> scores(heads * stride, NAN), narrow_scores(scores);
        ScoreColumns(columns.data.data(), count, dims.data(), rank, q.data.data(), rank, heads,
                     scores.data(), stride);
        ScoreColumns(narrow.data(), count, dims.data(), rank, q.data.data(), rank, heads,
                     narrow_scores.data(), stride);
        for (size_t h = 0; h < heads; ++h) {
          for (size_t t = 0; t < count; ++t) {
            double want = 0, want_narrow = 0;
            for (size_t i = 0; i < rank; ++i) {
              want += static_cast<double>(q.at(h, i)) * columns.at(dims[i], t);
              want_narrow += static_cast<double>(q.at(h, i)) * ToFloat(narrow[dims[i] * count + t]);
            }
            ASSERT_NEAR(scores[h * stride + t], want, 1e-5);
            ASSERT_NEAR(narrow_scores[h * stride + t], want_narrow, 1e-5);
          }
          for (size_t t = count; t < stride; ++t) ASSERT_TRUE(std::isnan(scores[h * stride + t]));
        }
      }
    }
  });
}

std::vector<int32_t> NaiveLargest(const std::vector<float>& values, size_t count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

TEST(SelectLargest, AgreesWithSortingIncludingTies) {
  ForEachDispatchTarget([] {
    std::mt19937 random(5);
    for (int round = 0; round < 300; ++round) {
      const size_t n = 1 + random() % (round % 10 == 0 ? 5000 : 90);
      std::vector<float> values(n);
      const int kind = round % 5;
      for (float& x : values) {
        const float u = std::normal_distribution<float>()(random);
        switch (kind) {
          case 0:
            x = u;
            break;  // logits
          case 1:
            x = std::exp2(8 * u);
            break;  // weights
          case 2:
            x = static_cast<float>(static_cast<int>(2 * u));
            break;  // many ties, 0 and -0
          case 3:
            x = 1.0f + 1e-6f * u;
            break;  // differ in the last bits only
          case 4:
            x = random() % 9 == 0 ? 0.0f : -0.0f;
            break;  // all equal
        }
      }
      const size_t count = random() % (n + 1);
      std::vector<uint32_t> scratch(n + 16);
      std::vector<int32_t> picks(count + 16);
      SelectLargest(values.data(), n, count, scratch.data(), picks.data());
      picks.resize(count);
      ASSERT_EQ(picks, NaiveLargest(values, count))
          << "n " << n << " count " << count << " kind " << kind;
    }
  });
}

// Where a sample says which values to look at: it may also mislead.
TEST(SelectLargest, AgreesWithSortingLongRowsOfAnyShape) {
  ForEachDispatchTarget([] {
    std::mt19937 random(6);
    for (const size_t n : {2048, 4099, 40000}) {
      for (const size_t period : {0, 2, 39, 41}) {
        std::vector<float> values(n);
        // With a period of the sample's step, the sample sees none or only large ones.
        for (size_t i = 0; i < n; ++i) {
          const float u = std::normal_distribution<float>()(random);
          values[i] = period > 0 && i % period == 1   ? 10 + u
                      : period > 0 && i % period == 0 ? -10
                                                      : u;
        }
        values[n / 3] = -INFINITY;
        values[n / 2] = INFINITY;
        for (const size_t count : {size_t{1}, size_t{5}, n / 50, n / 4, n - 7, n - 1}) {
          std::vector<uint32_t> scratch(n + 16);
          std::vector<int32_t> picks(count + 16);
          SelectLargest(values.data(), n, count, scratch.data(), picks.data());
          picks.resize(count);
          ASSERT_EQ(picks, NaiveLargest(values, count))
              << "n " << n << " count " << count << " period " << period;
        }
      }
    }
  });
}

TEST(RowLists, ScoreAndMixAgreeWithNaive) {
  ForEachDispatchTarget([] {
    for (const size_t dim : {1, 8, 21, 64, 80, 128, 160}) {
      for (const size_t heads : {1, 2, 3, 4, 6, 8}) {
        const size_t stored = 50, count = 23;
        const Matrix rows = RandomMatrix(stored, dim, 8), q = RandomMatrix(heads, dim, 9);
        const Matrix weights = RandomMatrix(heads, count, 10);
        const Matrix rounded = Rounded(rows);
        const std::vector<bf16> narrow = Narrow(rows);
        std::vector<const float*> list;
        std::vector<const bf16*> narrow_list;
        std::vector<size_t> index;
        for (size_t t = 0; t < count + kRowsAhead; ++t) {
          index.push_back((t * 7 + 3) % stored);
          list.push_back(rows.row(index[t]));
          narrow_list.push_back(narrow.data() + index[t] * dim);
        }
        Matrix scores(heads, count), narrow_scores(heads, count), mix(heads, dim),
            narrow_mix(heads, dim);
        ScoreRows(list.data(), count, dim, q.data.data(), heads, scores.data.data(), count);
        ScoreRows(narrow_list.data(), count, dim, q.data.data(), heads, narrow_scores.data.data(),
                  count);
        MixRows(list.data(), count, dim, weights.data.data(), count, heads, mix.data.data(), dim);
        MixRows(narrow_list.data(), count, dim, weights.data.data(), count, heads,
                narrow_mix.data.data(), dim);
        for (size_t h = 0; h < heads; ++h) {
          for (size_t t = 0; t < count; ++t) {
            double want = 0, want_narrow = 0;
            for (size_t d = 0; d < dim; ++d) {
              want += static_cast<double>(q.at(h, d)) * rows.at(index[t], d);
              want_narrow += static_cast<double>(q.at(h, d)) * rounded.at(index[t], d);
            }
            ASSERT_NEAR(scores.at(h, t), want, 1e-4);
            ASSERT_NEAR(narrow_scores.at(h, t), want_narrow, 1e-4);
          }
          for (size_t d = 0; d < dim; ++d) {
            double want = 0, want_narrow = 0;
            for (size_t t = 0; t < count; ++t) {
              want += static_cast<double>(weights.at(h, t)) * rows.at(index[t], d);
              want_narrow += static_cast<double>(weights.at(h, t)) * rounded.at(index[t], d);
            }
            ASSERT_NEAR(mix.at(h, d), want, 1e-4);
            ASSERT_NEAR(narrow_mix.at(h, d), want_narrow, 1e-4);
          }
        }
      }
    }
  });
}

TEST(MergeChunks, MakesWeightsSharesOfTheWholeRow) {
  ForEachDispatchTarget([] {
    for (const size_t chunks : {1, 2, 17, 128}) {
      const size_t stride = 3;
      const Matrix max = RandomMatrix(chunks, stride, 1, 20.0f),
                   sum = RandomMatrix(chunks, stride, 2);
      std::vector<float> factors(chunks), sums(sum.data);
      for (float& x : sums) x = 1 + std::abs(x);
      double top = -INFINITY, total = 0;
      for (size_t c = 0; c < chunks; ++c) top = std::max<double>(top, max.at(c, 1));
      for (size_t c = 0; c < chunks; ++c)
        total += sums[c * stride + 1] * std::exp2(max.at(c, 1) - top);
      const RowStatistics whole =
          MergeChunks(max.data.data() + 1, sums.data() + 1, stride, chunks, factors.data());
      EXPECT_EQ(whole.max, static_cast<float>(top));
      EXPECT_NEAR(whole.sum, total, total * 1e-5);
      for (size_t c = 0; c < chunks; ++c) {
        const double want = std::exp2(max.at(c, 1) - top) / total;
        EXPECT_NEAR(factors[c], want, want * 1e-5 + 1e-37);
      }
    }
  });
}

TEST(SmallPieces, AgreeWithNaive) {
  ForEachDispatchTarget([] {
    for (const int64_t n : {1, 15, 16, 100, 1000}) {
      const Matrix x = RandomMatrix(1, n, 6, 5.0f);
      const float max = *std::max_element(x.data.begin(), x.data.end());
      double sum = 0;
      for (const float v : x.data) sum += std::exp2(static_cast<double>(v) - max);
      ASSERT_EQ(MaxOf(x.data.data(), n), max);
      ASSERT_NEAR(SumExp2(x.data.data(), n, max), sum, sum * 1e-6);
      Matrix acc = RandomMatrix(1, n, 7);
      const Matrix before = acc;
      AddScaled(x.data.data(), n, 0.5f, acc.data.data());
      for (int64_t i = 0; i < n; ++i)
        ASSERT_NEAR(acc.data[i], before.data[i] + 0.5 * x.data[i], 1e-5);
    }
    const Matrix rows = RandomMatrix(9, 37, 2);
    std::vector<float> sum(37, 1.0f);
    AddRows(rows.data.data(), static_cast<const float*>(nullptr), 9, 37, sum.data());
    for (int d = 0; d < 37; ++d) {
      double want = 1;
      for (int t = 0; t < 9; ++t) want += rows.at(t, d);
      ASSERT_NEAR(sum[d], want, 1e-5);
    }
  });
}

}  // namespace
}  // namespace kvasir
