#include "runtime/kernels/bf16_pick_kernels.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/pick_kernels.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::Narrow;
using reference::RandomMatrix;

float Rounded(float x) { return ToFloat(ToBf16(x)); }

uint32_t PairOf(float first, float second) {
  const bf16 pair[2] = {ToBf16(first), ToBf16(second)};
  uint32_t word;
  std::memcpy(&word, pair, sizeof(word));
  return word;
}

class Bf16SparqKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasBf16Products()) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  }
};

TEST_F(Bf16SparqKernels, PackColumnPairsTakesTheChosenRows) {
  for (const size_t count : {16, 32, 48, 128}) {
    for (const size_t rank : {1, 2, 5, 8}) {
      const Matrix columns = RandomMatrix(40, count, 1), scales = RandomMatrix(1, 40, 2);
      const std::vector<bf16> narrow = Narrow(columns);
      std::vector<int8_t> int8(columns.data.size());
      for (size_t i = 0; i < int8.size(); ++i) int8[i] = static_cast<int8_t>(i * 37 % 255 - 127);
      const std::vector<int32_t> dims = {0, 3, 7, 8, 20, 33, 38, 39};
      const size_t stride = count + 16, pairs = (rank + 1) / 2;
      std::vector<uint32_t> packed(pairs * stride, 7), packed8 = packed;
      PackColumnPairs(narrow.data(), count, dims.data(), rank, packed.data(), stride);
      PackColumnPairs(int8.data(), scales.data.data(), count, dims.data(), rank, packed8.data(),
                      stride);
      for (size_t p = 0; p < pairs; ++p) {
        for (size_t t = 0; t < count; ++t) {
          const auto column = [&](size_t i) { return i < rank ? columns.at(dims[i], t) : 0.0f; };
          ASSERT_EQ(packed[p * stride + t], PairOf(column(2 * p), column(2 * p + 1)));
          bf16 pair[2];
          std::memcpy(static_cast<void*>(pair), &packed8[p * stride + t], sizeof(pair));
          for (size_t i = 2 * p; i < 2 * p + 2; ++i) {
            const float want = i < rank ? int8[dims[i] * count + t] * scales.data[dims[i]] : 0.0f;
            ASSERT_NEAR(ToFloat(pair[i - 2 * p]), want, std::abs(want) / 256);
          }
        }
        for (size_t t = count; t < stride; ++t) ASSERT_EQ(packed[p * stride + t], 7u);
      }
    }
  }
}

TEST_F(Bf16SparqKernels, WeighColumnsAndSumWeightsGiveTheGroupsShares) {
  for (const size_t heads : {2, 4, 6, 8, 32}) {
    for (const size_t count : {1, 16, 31, 64, 100, 512}) {
      const size_t pairs = 5, stride = 512;
      const Matrix q = RandomMatrix(heads, 2 * pairs, 3),
                   columns = RandomMatrix(2 * pairs, count, 4, 2.0f);
      std::vector<uint32_t> queries(heads * pairs), packed(pairs * stride);
      for (size_t h = 0; h < heads; ++h) {
        for (size_t p = 0; p < pairs; ++p) {
          queries[h * pairs + p] =
              PairOf(q.at(h, 2 * p) * kLogitUnits, q.at(h, 2 * p + 1) * kLogitUnits);
        }
      }
      for (size_t p = 0; p < pairs; ++p) {
        for (size_t t = 0; t < count; ++t) {
          packed[p * stride + t] = PairOf(columns.at(2 * p, t), columns.at(2 * p + 1, t));
        }
      }
      std::vector<float> max(heads), references(heads), sums(16 * heads, 0.0f), shares(stride);
      std::vector<uint32_t> weights(heads / 2 * stride, PairOf(NAN, NAN));
      MaxOfColumns(queries.data(), heads, pairs, packed.data(), stride, count, max.data());
      // Any reference will do, be it above or below the largest.
      for (size_t h = 0; h < heads; ++h)
        references[h] = max[h] + (static_cast<float>(h % 3) * 20 - 20) * kLogitUnits;
      WeighColumns(queries.data(), heads, pairs, packed.data(), stride, count, references.data(),
                   weights.data(), stride, sums.data());
      std::vector<double> want(count);
      std::vector<float> factors(heads);
      for (size_t h = 0; h < heads; ++h) {
        double best = -INFINITY, total = 0, sum = 0;
        std::vector<double> exact(count);
        for (size_t t = 0; t < count; ++t) {
          double score = 0;
          for (size_t i = 0; i < 2 * pairs; ++i)
            score += Rounded(q.at(h, i)) * Rounded(columns.at(i, t));
          best = std::max(best, score);
          exact[t] = std::exp2(score - references[h] / kLogitUnits);
          total += exact[t];
        }
        ASSERT_NEAR(max[h] / kLogitUnits, best, 1e-4);
        double stored = 0;
        for (size_t lane = 0; lane < 16; ++lane) sum += sums[16 * h + lane];
        for (size_t t = 0; t < count; ++t) {
          const uint32_t pair = weights[h / 2 * stride + t];
          const float weight = std::bit_cast<float>(h % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
          ASSERT_NEAR(weight, exact[t], exact[t] * 0.01);
          stored += weight;
          want[t] += exact[t] / total;
        }
        ASSERT_NEAR(sum, stored, stored * 1e-5);
        for (size_t t = count; t < (count + 15) / 16 * 16; ++t)
          ASSERT_EQ(weights[h / 2 * stride + t], 0u);
        factors[h] = static_cast<float>(1 / total);
      }
      std::vector<uint32_t> pair_factors;
      for (size_t h = 0; h < heads; h += 2)
        pair_factors.push_back(PairOf(factors[h], factors[h + 1]));
      SumWeights(weights.data(), stride, heads / 2, pair_factors.data(), count, shares.data());
      for (size_t t = 0; t < count; ++t) ASSERT_NEAR(shares[t], want[t], want[t] * 0.012 + 1e-12);
    }
  }
}

// Columns that are packed on the way give the same bits as those packed beforehand.
TEST_F(Bf16SparqKernels, WeighColumnRowsAgreesWithWeighColumns) {
  for (const size_t heads : {2, 4, 6, 8, 32}) {
    for (const size_t rank : {1, 2, 5, 16}) {
      for (const bool two_places : {false, true}) {
        const size_t k_dim = 40, stride = 96, pairs = (rank + 1) / 2, count = two_places ? 64 : 32;
        const std::vector<bf16> first = Narrow(RandomMatrix(k_dim, stride, 1));
        const std::vector<bf16> second = Narrow(RandomMatrix(k_dim, stride, 2));
        std::vector<int32_t> dims(rank);
        for (size_t i = 0; i < rank; ++i) dims[i] = static_cast<int32_t>(i * 5 / 2);
        const Matrix q = RandomMatrix(heads, 2 * pairs, 3);
        std::vector<uint32_t> queries(heads * pairs), packed(pairs * 64),
            weights(heads / 2 * 64, 7), want(weights);
        for (size_t i = 0; i < queries.size(); ++i) {
          const float* pair = &q.data[2 * i];
          queries[i] = PairOf(pair[0] * kLogitUnits, pair[1] * kLogitUnits);
        }
        for (size_t p = 0; p < pairs; ++p) {
          for (size_t t = 0; t < count; ++t) {
            const std::vector<bf16>& place = t < 32 ? first : second;
            const auto element = [&](size_t i) {
              return i < rank ? ToFloat(place[dims[i] * stride + t % 32]) : 0.0f;
            };
            packed[p * 64 + t] = PairOf(element(2 * p), element(2 * p + 1));
          }
        }
        const std::vector<float> references(heads, kLogitUnits);
        std::vector<float> sums(16 * heads, 1.0f), want_sums(sums);
        WeighColumns(queries.data(), heads, pairs, packed.data(), 64, count, references.data(),
                     want.data(), 64, want_sums.data());
        WeighColumnRows(queries.data(), heads, first.data(), two_places ? second.data() : nullptr,
                        stride, dims.data(), rank, references.data(), weights.data(), 64,
                        sums.data());
        ASSERT_EQ(weights, want) << heads << " heads, rank " << rank << ", " << count << " columns";
        for (size_t h = 0; h < heads; ++h) {
          const auto sum = [h](const std::vector<float>& lanes) {
            return std::accumulate(lanes.begin() + 16 * h, lanes.begin() + 16 * (h + 1), 0.0f);
          };
          ASSERT_NEAR(sum(sums), sum(want_sums), 1e-5 * sum(want_sums));
        }
      }
    }
  }
}

TEST_F(Bf16SparqKernels, WeighColumnsSaysWhenAWeightIsTooLarge) {
  std::vector<uint32_t> queries = {PairOf(kLogitUnits, 0), PairOf(kLogitUnits, 0)},
                        columns(64, PairOf(-300, 0)), weights(64);
  const std::vector<float> references = {0, 0};
  std::vector<float> sums(32, 0.0f);
  WeighColumns(queries.data(), 2, 1, columns.data(), 64, 64, references.data(), weights.data(), 64,
               sums.data());
  for (const float sum : sums) EXPECT_EQ(sum, 0.0f);
  columns[40] = PairOf(300, 0);
  WeighColumns(queries.data(), 2, 1, columns.data(), 64, 64, references.data(), weights.data(), 64,
               sums.data());
  EXPECT_FALSE(std::isfinite(std::accumulate(sums.begin(), sums.begin() + 16, 0.0f)));
}

TEST_F(Bf16SparqKernels, RowListsAgreeWithNaive) {
  for (const size_t dim : {16, 48, 64, 80, 128, 256}) {
    for (const size_t heads : {1, 2, 3, 4, 5, 8, 13}) {
      for (const size_t count : {1, 2, 7, 23, 128}) {
        const size_t stored = 50, stride = 128;
        const Matrix rows = RandomMatrix(stored, dim, 8), q = RandomMatrix(heads, dim, 9);
        const Matrix raw = RandomMatrix(heads, count, 10);
        const std::vector<bf16> narrow = Narrow(rows);
        std::vector<const bf16*> list;
        std::vector<size_t> index;
        for (size_t t = 0; t < count + RowsAhead(count, QuadsOf(heads)); ++t) {
          index.push_back((t * 7 + 3) % stored);
          list.push_back(narrow.data() + index[t] * dim);
        }
        std::vector<uint32_t> quads(QuadsOf(heads) * dim * 2);
        PackQuads(q.data.data(), heads, dim, quads.data());
        std::vector<float> scores(QuadsOf(heads) * 4 * stride);
        ScoreRowPairs(list.data(), count, dim, quads.data(), heads, scores.data(), stride);
        std::vector<bf16> weights(heads * stride);
        for (size_t h = 0; h < heads; ++h) {
          for (size_t t = 0; t < count; ++t) weights[h * stride + t] = ToBf16(raw.at(h, t));
        }
        Matrix mix(heads, dim);
        MixRowPairs(list.data(), count, dim, weights.data(), stride, heads, mix.data.data(), dim);
        for (size_t h = 0; h < heads; ++h) {
          for (size_t t = 0; t < count; ++t) {
            double want = 0;
            for (size_t d = 0; d < dim; ++d) {
              want +=
                  static_cast<double>(Rounded(q.at(h, d))) * ToFloat(narrow[index[t] * dim + d]);
            }
            ASSERT_NEAR(scores[h * stride + t], want, 2e-4) << dim << " " << heads << " " << count;
          }
          for (size_t d = 0; d < dim; ++d) {
            double want = 0;
            for (size_t t = 0; t < count; ++t) {
              want +=
                  static_cast<double>(Rounded(raw.at(h, t))) * ToFloat(narrow[index[t] * dim + d]);
            }
            ASSERT_NEAR(mix.at(h, d), want, 2e-4) << dim << " " << heads << " " << count;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
