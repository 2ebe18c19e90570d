// SparQ's invariants and its variants beyond the paper, each against its definition.
#include <algorithm>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "runtime/ops/sparse/sparq_attention.h"
#include "tests/ops/sparq_fixture.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::MaxDifference;
using reference::RandomMatrix;

class SparqVariantsTest : public ::testing::Test {
 protected:
  ~SparqVariantsTest() override { SetComputeThreads(2); }

  template <typename... Ints>
  int Pick(Ints... values) {
    const std::vector<int> list = {values...};
    return list[random_() % list.size()];
  }
  SparqCase RandomCase() {
    const std::vector<std::pair<int, int>> heads = {{2, 2}, {4, 2}, {6, 1}, {3, 3}};
    SparqCase c;
    std::tie(c.query_heads, c.kv_heads) = heads[random_() % heads.size()];
    c.k_dim = Pick(8, 20, 32);
    c.v_dim = Pick(8, 32, 40);
    c.element_type = static_cast<KvElementType>(Pick(0, 1, 2, 3));
    c.k_columns = Pick(0, 1) == 0 ? KvColumns::kSame : KvColumns::kInt8;
    c.block_tokens = Pick(16, 32, 48);
    c.context = Pick(31, 100, 300, 511);
    c.rows = Pick(1, 3);
    c.params.rank = 1 + static_cast<int>(random_() % c.k_dim);
    c.params.top_k = Pick(1, 7, 64, 200);
    c.params.local_window = std::min(c.params.top_k, Pick(0, 1, 5, 32));
    c.params.mean_value = Pick(0, 1) == 1;
    c.params.selection =
        Pick(0, 1) == 0 ? SparseSelection::kSoftmaxSum : SparseSelection::kLogitSum;
    SetComputeThreads(Pick(1, 2, 5));
    return c;
  }

  std::mt19937 random_{23};
};

TEST_F(SparqVariantsTest, MeanOfTheUnselectedAgreesWithItsDefinition) {
  for (int round = 0; round < 40; ++round) {
    SparqCase c = RandomCase();
    c.params.mean_value = c.params.mean_of_unselected = true;
    SparqFixture fixture(c);
    ASSERT_LT(MaxDifference(fixture.Run(c.params), fixture.Expected(c.params)), kSparqTolerance)
        << c.Name();
  }
}

TEST_F(SparqVariantsTest, GrowingPicksAgreeWithTheirDefinition) {
  for (int round = 0; round < 60; ++round) {
    SparqCase c = RandomCase();
    c.params.least_mass =
        Pick(1, 5, 8, 10) / 10.0f;  // 1 is beyond what rounding leaves: all of max_top_k
    c.params.max_top_k = c.params.top_k + Pick(0, 1, 30, 1000);
    c.params.mean_of_unselected = Pick(0, 1) == 1;
    SparqFixture fixture(c);
    ASSERT_LT(MaxDifference(fixture.Run(c.params), fixture.Expected(c.params)), kSparqTolerance)
        << c.Name();
  }
}

TEST_F(SparqVariantsTest, GrowingPicksAreTheSameForAnyNumberOfThreads) {
  SparqCase c;
  c.query_heads = 3;
  c.kv_heads = 1;
  c.context = 9001;
  c.params = {8, 100, 32, true, SparseSelection::kSoftmaxSum, true, 0.6f, 4000};
  SparqFixture fixture(c);
  SetComputeThreads(1);
  int64_t bytes = 0;
  const Matrix one = fixture.Run(c.params, &bytes);
  SparseParams least = c.params, most = c.params;
  least.least_mass = 0;
  most.least_mass = 1;
  int64_t least_bytes = 0, most_bytes = 0;
  fixture.Run(least, &least_bytes);
  fixture.Run(most, &most_bytes);
  EXPECT_GT(bytes, least_bytes);
  EXPECT_LT(bytes, most_bytes);
  for (const int threads : {2, 7}) {
    SetComputeThreads(threads);
    EXPECT_EQ(fixture.Run(c.params).data, one.data) << threads;
  }
}

TEST_F(SparqVariantsTest, AllDimensionsPickTheLargestScores) {
  SparqCase c;
  c.query_heads = c.kv_heads = 1;
  c.params = {32, 50, 0, false, SparseSelection::kSoftmaxSum};
  SparqFixture fixture(c);
  const Matrix k = fixture.pool().ReadK(fixture.table(), 301),
               v = fixture.pool().ReadV(fixture.table(), 301);
  std::vector<std::pair<double, int>> scores;
  for (int j = 0; j < 301; ++j) {
    double score = 0;
    for (int d = 0; d < 32; ++d)
      score += static_cast<double>(fixture.queries().at(0, d)) * k.at(j, d);
    scores.push_back({-score, j});
  }
  std::sort(scores.begin(), scores.end());
  std::vector<int> picks;
  for (int i = 0; i < 50; ++i) picks.push_back(scores[i].second);
  std::sort(picks.begin(), picks.end());
  const Matrix expected =
      reference::AttendToPicks(fixture.queries(), k, v, fixture.scale(), picks, {}, {});
  EXPECT_LT(MaxDifference(fixture.Run(c.params), expected), kSparqTolerance);
}

// A later layer over the same K/V attends to the first one's picks with its own queries.
TEST_F(SparqVariantsTest, LayersInARowMayShareTheirPicks) {
  for (const bool mean : {false, true}) {
    SparqCase c;
    c.rows = 2;
    c.params = {4, 40, 8, mean, SparseSelection::kSoftmaxSum};
    c.params.reuse_picks = true;
    SparqFixture fixture(c);
    const Matrix later = RandomMatrix(c.rows, int64_t{c.query_heads} * c.k_dim, 77);
    SparqAttention attention;
    int64_t first_bytes = 0, later_bytes = 0;
    const Matrix first_out =
        fixture.RunLayer(&attention, fixture.queries(), c.params, false, &first_bytes);
    EXPECT_EQ(first_out.data, fixture.Run(c.params).data);
    const Matrix later_out = fixture.RunLayer(&attention, later, c.params, true, &later_bytes);
    // Twice the same layer gives the same picks, so the same output.
    const Matrix again = fixture.RunLayer(&attention, fixture.queries(), c.params, true);
    EXPECT_EQ(again.data, first_out.data);

    Matrix expected(c.rows, later_out.cols);
    const int group = c.query_heads / c.kv_heads;
    int64_t tail = 0;
    for (int t = 0; t < c.rows; ++t) {
      const int positions = c.context + t + 1;
      tail += positions % c.block_tokens;
      const Matrix all_k = fixture.pool().ReadK(fixture.table(), positions);
      const Matrix all_v = fixture.pool().ReadV(fixture.table(), positions);
      for (int head = 0; head < c.kv_heads; ++head) {
        const auto slice = [&](const Matrix& from, int64_t row, int rows, int dim, int heads) {
          Matrix to(rows, dim);
          for (int r = 0; r < rows; ++r) {
            const float* begin = heads == 1 ? from.row(row + r) + int64_t{head} * dim
                                            : from.row(row) + (int64_t{head} * heads + r) * dim;
            std::copy_n(begin, dim, to.row(r));
          }
          return to;
        };
        const Matrix k = slice(all_k, 0, positions, c.k_dim, 1),
                     v = slice(all_v, 0, positions, c.v_dim, 1);
        reference::SparqSettings settings;
        settings.rank = 4;
        settings.top_k = 40;
        settings.local_window = 8;
        settings.mean_value = mean;
        const auto owner = reference::Sparq(slice(fixture.queries(), t, group, c.k_dim, group), k,
                                            k, v, fixture.scale(), settings);
        const Matrix out =
            reference::AttendToPicks(slice(later, t, group, c.k_dim, group), k, v, fixture.scale(),
                                     owner.picks, owner.alpha, settings);
        std::copy_n(out.data.data(), out.data.size(),
                    expected.row(t) + int64_t{head} * group * c.v_dim);
      }
    }
    EXPECT_LT(MaxDifference(later_out, expected), kSparqTolerance);
    // The later layer reads no key columns: `rank` elements of each position, per row and KV head.
    const int64_t ranked =
        (int64_t{c.context + 1} + c.context + 2) * 4 * c.kv_heads * sizeof(float);
    EXPECT_EQ(first_bytes - later_bytes, ranked);
    const int64_t means = mean ? 2 * c.v_dim + tail * c.v_dim : 0;
    EXPECT_EQ(later_bytes, (2 * 40 * 2 * 32 + means) * c.kv_heads * int64_t{sizeof(float)});
  }
}

TEST_F(SparqVariantsTest, CountedBytesAreThoseOfTheFormula) {
  for (const KvElementType type : {KvElementType::kBf16, KvElementType::kInt8}) {
    for (const bool mean : {false, true}) {
      SparqCase c;
      c.element_type = type;
      c.rows = 3;
      c.params.mean_value = mean;
      SparqFixture fixture(c);
      int64_t counted = 0;
      fixture.Run(c.params, &counted);
      KvLayoutSpec spec;
      spec.layers = UniformKvLayers({0}, c.kv_heads, c.k_dim, c.v_dim);
      spec.element_type = type;
      spec.block_tokens = c.block_tokens;
      spec.k_columns = KvColumns::kSame;
      const KvLayout layout = *KvLayout::Create(spec);
      int64_t expected = 0;
      for (int positions = c.context + 1; positions <= c.context + c.rows; ++positions) {
        expected += SparqBytesRead(layout, 0, positions, c.params);
      }
      EXPECT_EQ(counted, expected) << c.Name();
    }
  }
}

TEST_F(SparqVariantsTest, KeyColumnsHoldTheKeys) {
  for (const KvElementType type :
       {KvElementType::kF32, KvElementType::kBf16, KvElementType::kF16}) {
    SparqCase c;
    c.element_type = type;
    SparqFixture fixture(c);
    EXPECT_EQ(fixture.pool().ReadRankKeys(fixture.table(), 301).data,
              fixture.pool().ReadK(fixture.table(), 301).data);
  }
}

// One block that never fills has no columns: everything is ranked by K rows.
TEST_F(SparqVariantsTest, RankingByColumnsEqualsRankingByRows) {
  SparqCase columns, rows;
  columns.params.mean_value = rows.params.mean_value = true;
  columns.block_tokens = 16;
  rows.block_tokens = 512;
  EXPECT_LT(
      MaxDifference(SparqFixture(columns).Run(columns.params), SparqFixture(rows).Run(rows.params)),
      kSparqTolerance);
}

TEST_F(SparqVariantsTest, TheOrderOfDimensionsDoesNotMatter) {
  PagedKvSpec spec;
  spec.k_dim = spec.v_dim = 32;
  spec.k_columns = KvColumns::kSame;
  const Matrix q = RandomMatrix(1, 64, 1), k = RandomMatrix(300, 32, 2),
               v = RandomMatrix(300, 32, 3);
  const auto run = [&](bool reversed) {
    Matrix queries = q, keys = k;
    for (int d = 0; d < 32 && reversed; ++d) {
      for (int h = 0; h < 2; ++h) queries.at(0, h * 32 + d) = q.at(0, h * 32 + 31 - d);
      for (int j = 0; j < 300; ++j) keys.at(j, d) = k.at(j, 31 - d);
    }
    PagedKv pool(spec);
    const std::vector<BlockId> table = pool.Add(keys, v);
    SparqAttention attention;
    MatmulInput out(ComputeType::kF32);
    const ResolvedSparq method({SparseParams{6, 60, 10, true, SparseSelection::kSoftmaxSum}}, 0);
    attention.Run(0, {{queries.data.data(), 1, 64, 64}, 2, {}}, 0.2f,
                  {SparseSequence{{0, 1, 299, table}, &method}}, pool.view(), &out,
                  /*same_kv=*/false);
    return std::vector<float>(static_cast<const float*>(out.data()),
                              static_cast<const float*>(out.data()) + 64);
  };
  const std::vector<float> straight = run(false), reversed = run(true);
  for (int i = 0; i < 64; ++i) EXPECT_NEAR(straight[i], reversed[i], kSparqTolerance);
}

TEST_F(SparqVariantsTest, OutputScalesWithValues) {
  PagedKvSpec spec;
  spec.k_dim = spec.v_dim = 32;
  spec.k_columns = KvColumns::kSame;
  PagedKv pool(spec);
  const Matrix q = RandomMatrix(1, 32, 1), k = RandomMatrix(300, 32, 2);
  Matrix v = RandomMatrix(300, 32, 3);
  const std::vector<BlockId> table = pool.Add(k, v);
  for (float& x : v.data) x *= 4;  // exact
  const std::vector<BlockId> scaled = pool.Add(k, v);
  const SparseParams params{6, 60, 10, true, SparseSelection::kSoftmaxSum};
  Matrix both(2, 32);
  std::copy_n(q.data.data(), 32, both.row(0));
  std::copy_n(q.data.data(), 32, both.row(1));
  SparqAttention attention;
  MatmulInput out(ComputeType::kF32);
  const ResolvedSparq method({params}, 0);
  attention.Run(
      0, {{both.data.data(), 2, 32, 32}, 1, {}}, 0.2f,
      {SparseSequence{{0, 1, 299, table}, &method}, SparseSequence{{1, 1, 299, scaled}, &method}},
      pool.view(), &out, /*same_kv=*/false);
  const float* values = static_cast<const float*>(out.data());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(4 * values[i], values[32 + i]);
}

// Sequences of different lengths and parameters in one call are each what they are alone.
TEST_F(SparqVariantsTest, ABatchEqualsItsSequencesAlone) {
  PagedKvSpec spec;
  spec.kv_heads = 2;
  spec.k_dim = spec.v_dim = 32;
  spec.k_columns = KvColumns::kSame;
  PagedKv pool(spec);
  const int lengths[] = {40, 333, 500, 97};
  Matrix q = RandomMatrix(4, 128, 9);
  std::vector<std::vector<BlockId>> tables;
  std::vector<std::unique_ptr<ResolvedSparq>> methods;
  std::vector<SparseSequence> sequences;
  for (int i = 0; i < 4; ++i) {
    tables.push_back(
        pool.Add(RandomMatrix(lengths[i], 64, 10 + i), RandomMatrix(lengths[i], 64, 20 + i)));
  }
  for (int i = 0; i < 4; ++i) {
    SparseParams params{4 + i, 30 + i, i, i % 2 == 0, SparseSelection::kSoftmaxSum};
    if (i == 2) params.least_mass = 0.5f, params.max_top_k = 200;
    methods.push_back(
        std::make_unique<ResolvedSparq>(ResolvedSparq::LayerParams{params}, /*first_position=*/0));
    sequences.push_back({{i, 1, lengths[i] - 1, tables[i]}, methods.back().get()});
  }
  SparqAttention attention;
  MatmulInput batch(ComputeType::kF32), alone(ComputeType::kF32);
  attention.Run(0, {{q.data.data(), 4, 128, 128}, 4, {}}, 0.2f, sequences, pool.view(), &batch,
                /*same_kv=*/false);
  for (int i = 0; i < 4; ++i) {
    attention.Run(0, {{q.data.data(), 4, 128, 128}, 4, {}}, 0.2f, {sequences[i]}, pool.view(),
                  &alone, /*same_kv=*/false);
    for (int c = 0; c < 128; ++c) {
      EXPECT_EQ(static_cast<const float*>(batch.data())[i * 128 + c],
                static_cast<const float*>(alone.data())[i * 128 + c]);
    }
  }
}

}  // namespace
}  // namespace kvasir
