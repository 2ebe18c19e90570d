#include "runtime/ops/sparse/sparq_attention.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/ops/sparse/key_columns.h"
#include "runtime/ops/sparse/sparq_task.h"
#include "tests/ops/paged_kv.h"
#include "tests/ops/sparq_fixture.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

using Case = SparqCase;
using Fixture = SparqFixture;

class SparqAttentionTest : public ::testing::Test {
 protected:
  ~SparqAttentionTest() override { SetComputeThreads(2); }
};

TEST_F(SparqAttentionTest, AgreesWithTheDefinition) {
  std::mt19937 random(11);
  const auto pick = [&](auto... values) {
    const std::vector<int> list = {values...};
    return list[random() % list.size()];
  };
  const std::vector<std::pair<int, int>> heads = {{2, 2}, {4, 2}, {6, 1}, {8, 1}, {3, 3}, {10, 2}};
  for (int round = 0; round < 120; ++round) {
    Case c;
    std::tie(c.query_heads, c.kv_heads) = heads[random() % heads.size()];
    c.k_dim = pick(8, 20, 32, 64);
    c.v_dim = pick(8, 32, 40);
    c.element_type = static_cast<KvElementType>(pick(0, 1, 2, 3));
    c.k_columns = pick(0, 1) == 0 ? KvColumns::kSame : KvColumns::kInt8;
    c.block_tokens = pick(16, 32, 48, 128);
    c.context = pick(0, 1, 15, 31, 32, 100, 300, 511, 700);
    c.rows = pick(1, 1, 3, 20);
    c.params.rank = 1 + static_cast<int>(random() % c.k_dim);
    c.params.top_k = pick(1, 7, 64, 200, 1000);
    c.params.local_window = std::min(c.params.top_k, pick(0, 1, 5, 32));
    c.params.mean_value = pick(0, 1) == 1;
    c.params.selection =
        pick(0, 1) == 0 ? SparseSelection::kSoftmaxSum : SparseSelection::kLogitSum;
    SetComputeThreads(pick(1, 2, 5));
    Fixture fixture(c);
    ASSERT_LT(reference::MaxDifference(fixture.Run(c.params), fixture.Expected(c.params)),
              kSparqTolerance)
        << c.Name();
  }
}

// Several rank chunks, and a size at which one item is split over threads.
TEST_F(SparqAttentionTest, LongContextsGiveTheSameBitsHoweverManyThreads) {
  for (const auto selection : {SparseSelection::kSoftmaxSum, SparseSelection::kLogitSum}) {
    for (const int query_heads : {1, 5}) {
      Case c;
      c.query_heads = query_heads;
      c.kv_heads = 1;
      c.element_type = KvElementType::kBf16;
      c.context = 9001;
      c.params = {8, 700, 32, true, selection};
      Fixture fixture(c);
      SetComputeThreads(1);
      const Matrix one = fixture.Run(c.params);
      EXPECT_LT(reference::MaxDifference(one, fixture.Expected(c.params)), kSparqTolerance)
          << c.Name();
      for (const int threads : {2, 7}) {
        SetComputeThreads(threads);
        EXPECT_EQ(fixture.Run(c.params).data, one.data) << c.Name() << ", threads " << threads;
      }
    }
  }
}

Matrix RunTask(const SparseItem& item, const KvView& kv) {
  SparqTask task;
  Matrix out(item.group, kv.v_dim);
  SparseItem with_out = item;
  with_out.out = out.data.data();
  task.Begin(with_out, kv);
  for (int c = 0; c < task.num_rank_chunks(); ++c) task.Rank(c);
  task.Merge();
  for (int c = 0; c < task.num_rank_chunks(); ++c) task.Combine(c);
  task.Select();
  for (int c = 0; c < task.num_attend_chunks(); ++c) task.Attend(c);
  task.Finish();
  return out;
}

// Bf16 products round queries and weights: a pick near the threshold may be another one, and
// attention to the same picks differs by no more than the rounding.
TEST_F(SparqAttentionTest, Bf16ProductsPickAndAttendAlmostAlike) {
  if (!HasBf16Products()) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  for (const auto selection : {SparseSelection::kSoftmaxSum, SparseSelection::kLogitSum}) {
    for (const int group : {1, 4, 5, 32}) {
      // Tiles of 64 positions hold blocks, lie in one, or across two.
      for (const int block_tokens : {16, 32, 96, 128, 272}) {
        for (const KvColumns keys : {KvColumns::kSame, KvColumns::kInt8}) {
          for (const bool mean : {false, true}) {
            Case c;
            c.query_heads = group;
            c.kv_heads = 1;
            c.k_dim = 64;
            c.element_type = KvElementType::kBf16;
            c.k_columns = keys;
            c.block_tokens = block_tokens;
            c.context = 2011;
            c.params = {9, 300, 32, mean, selection};
            Fixture fixture(c);
            SparsePicks exact_picks, picks;
            SparseItem item;
            item.q = fixture.queries().data.data();
            item.group = group;
            item.positions = c.context + 1;
            item.blocks = fixture.table();
            item.params = c.params;
            item.scale = fixture.scale();
            item.kept = &exact_picks;
            RunTask(item, fixture.pool().view());
            item.bf16_products = true;
            item.kept = &picks;
            const Matrix out = RunTask(item, fixture.pool().view());
            std::vector<int32_t> both;
            std::set_intersection(picks.positions.begin(), picks.positions.end(),
                                  exact_picks.positions.begin(), exact_picks.positions.end(),
                                  std::back_inserter(both));
            EXPECT_EQ(picks.positions.size(), 300u) << c.Name();
            // Queries off by 2^-9 at most move the scores of noise by less than 1 % of their
            // spread.
            EXPECT_GE(both.size(), 294u) << c.Name();
            item.bf16_products = false;
            item.kept = nullptr;
            item.given = &picks;
            const Matrix want = RunTask(item, fixture.pool().view());
            double difference = 0, size = 0;
            for (size_t i = 0; i < want.data.size(); ++i) {
              difference += std::pow(out.data[i] - want.data[i], 2);
              size += std::pow(want.data[i], 2);
            }
            EXPECT_LT(std::sqrt(difference / size), 0.01) << c.Name();
          }
        }
      }
    }
  }
}

// Weights are relative to the first positions' logits; where others lie too far above these, picks
// are the exact ones.
TEST_F(SparqAttentionTest, Bf16ProductsStandLogitsOfAnySize) {
  if (!HasBf16Products()) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  for (const int group : {3, 4}) {
    Case c;
    c.query_heads = group;
    c.kv_heads = 1;
    c.k_dim = 64;
    c.element_type = KvElementType::kBf16;
    c.context = 6011;
    c.params = {9, 300, 32, false, SparseSelection::kSoftmaxSum};
    Fixture fixture(c);
    std::vector<float> q = fixture.queries().data;
    for (float& x : q) x *= 1000;
    SparsePicks exact_picks, picks;
    SparseItem item;
    item.q = q.data();
    item.group = group;
    item.positions = c.context + 1;
    item.blocks = fixture.table();
    item.params = c.params;
    item.scale = fixture.scale() / 1000;
    item.kept = &exact_picks;
    const Matrix want = RunTask(item, fixture.pool().view());
    item.bf16_products = true;
    item.kept = &picks;
    const Matrix out = RunTask(item, fixture.pool().view());
    EXPECT_EQ(picks.positions, exact_picks.positions) << c.Name();
    EXPECT_LT(reference::MaxDifference(out, want), 0.02) << c.Name();
  }
}

TEST_F(SparqAttentionTest, Bf16ProductsGiveTheSameBitsHoweverManyThreads) {
  for (const KvColumns keys : {KvColumns::kSame, KvColumns::kInt8}) {
    for (const int block_tokens : {16, 48}) {
      Case c;
      c.query_heads = 5;
      c.kv_heads = 1;
      c.element_type = KvElementType::kBf16;
      c.k_columns = keys;
      c.block_tokens = block_tokens;
      c.context = 9001;
      c.params = {9, 700, 32, false, SparseSelection::kSoftmaxSum};
      Fixture fixture(c);
      const auto run = [&](int threads) {
        SetComputeThreads(threads);
        SparqAttention attention;
        MatmulInput out(ComputeType::kBf16);
        Matrix& q = fixture.queries();
        const ResolvedSparq method({c.params}, 0);
        attention.Run(0, {{q.data.data(), q.rows, q.cols, q.cols}, c.query_heads, {}},
                      fixture.scale(),
                      {SparseSequence{{0, 1, c.context, fixture.table()}, &method}},
                      fixture.pool().view(), &out, /*same_kv=*/false);
        const auto* bytes = static_cast<const uint8_t*>(out.data());
        return std::vector<uint8_t>(bytes, bytes + out.cols() * sizeof(bf16));
      };
      const std::vector<uint8_t> one = run(1);
      for (const int threads : {2, 7}) EXPECT_EQ(run(threads), one) << c.Name();
    }
  }
}

TEST_F(SparqAttentionTest, IsDenseWhereEverythingIsPicked) {
  for (const KvColumns keys : {KvColumns::kSame, KvColumns::kInt8}) {
    Case c;
    c.k_columns = keys;
    Fixture fixture(c);
    for (const int rank : {1, 8, 32}) {
      const SparseParams params{rank, c.context + 1, 0, true, SparseSelection::kSoftmaxSum};
      EXPECT_LT(reference::MaxDifference(fixture.Run(params), fixture.Dense()), kSparqTolerance);
    }
  }
}

TEST_F(SparqAttentionTest, ErrorFallsAsRankAndPicksGrow) {
  Case c;
  c.context = 600;
  c.rows = 16;
  c.query_heads = c.kv_heads = 4;
  Fixture fixture(c);
  const Matrix dense = fixture.Dense();
  const auto error = [&](int rank, int top_k) {
    const Matrix out = fixture.Run({rank, top_k, 8, true, SparseSelection::kSoftmaxSum});
    double sum = 0;
    for (size_t i = 0; i < out.data.size(); ++i) sum += std::abs(out.data[i] - dense.data[i]);
    return sum / out.data.size();
  };
  EXPECT_GT(error(4, 100), error(16, 100));
  EXPECT_GT(error(16, 100), error(32, 100));
  EXPECT_GT(error(16, 30), error(16, 100));
  EXPECT_GT(error(16, 100), error(16, 400));
}

// With all V equal, neither picks nor alpha can matter.
TEST_F(SparqAttentionTest, EqualValuesComeOutAsTheyAre) {
  PagedKvSpec spec;
  spec.kv_heads = 1;
  spec.k_dim = spec.v_dim = 32;
  spec.k_columns = KvColumns::kSame;
  PagedKv pool(spec);
  const Matrix k = RandomMatrix(333, 32, 1);
  Matrix v(333, 32), q = RandomMatrix(1, 64, 2);
  for (float& x : v.data) x = 0.75f;
  const std::vector<BlockId> table = pool.Add(k, v);
  for (const bool mean : {false, true}) {
    SparqAttention attention;
    MatmulInput out(ComputeType::kF32);
    const ResolvedSparq method({SparseParams{4, 50, 10, mean, SparseSelection::kSoftmaxSum}}, 0);
    attention.Run(0, {{q.data.data(), 1, 64, 64}, 2, {}}, 0.2f,
                  {SparseSequence{{0, 1, 332, table}, &method}}, pool.view(), &out,
                  /*same_kv=*/false);
    for (int i = 0; i < 64; ++i) EXPECT_NEAR(static_cast<const float*>(out.data())[i], 0.75f, 1e-6);
  }
}

// Columns and sums written block by block, as decoding does, are those written at once.
TEST_F(SparqAttentionTest, ColumnsDoNotDependOnWhenBlocksFill) {
  for (const KvElementType type :
       {KvElementType::kF32, KvElementType::kBf16, KvElementType::kInt8}) {
    PagedKvSpec spec;
    spec.kv_heads = 2;
    spec.element_type = type;
    spec.k_columns = KvColumns::kInt8;
    PagedKv pool(spec);
    const std::vector<BlockId> table =
        pool.Add(RandomMatrix(200, 128, 1), RandomMatrix(200, 128, 2));
    const KvView& kv = pool.view();
    const auto bytes = [&] {
      std::vector<uint8_t> all;
      for (int b = 0; b < 200 / 32; ++b) {
        const uint8_t* from = kv.KeyColumns(table[b], 0);
        all.insert(all.end(), from, from + 2 * kv.slice.columns_head_stride_bytes);
      }
      return all;
    };
    const std::vector<uint8_t> at_once = bytes();
    for (int b = 0; b < 200 / 32; ++b) FillKeyColumns({FilledBlocks{table, b, 1}}, kv);
    EXPECT_EQ(bytes(), at_once);
    const Matrix v = pool.ReadV(table, 192);
    for (int d = 0; d < 64; ++d) {
      double sum = 0;
      for (int p = 0; p < 192; ++p) sum += v.at(p, 64 + d);
      EXPECT_NEAR(kv.VPrefixSum(table[5], 1)[d], sum, 1e-4);
    }
  }
}

TEST_F(SparqAttentionTest, BytesReadAreThoseOfTheModel) {
  KvLayoutSpec spec;
  spec.layers = UniformKvLayers({0, 0}, 8, 128, 128);
  spec.k_columns = KvColumns::kSame;
  const KvLayout layout = *KvLayout::Create(spec);
  const SparseParams params{16, 256, 64, false, SparseSelection::kSoftmaxSum};
  // S r + 2 k d elements per KV head; a borrower reads as much as its owner.
  EXPECT_EQ(SparqBytesRead(layout, 0, 4096, params), 8 * (4096 * 16 + 2 * 256 * 128) * 2);
  EXPECT_EQ(SparqBytesRead(layout, 1, 4096 + 5, params), 8 * ((4096 + 5) * 16 + 2 * 256 * 128) * 2);
  SparseParams mean = params;
  mean.mean_value = true;
  EXPECT_EQ(SparqBytesRead(layout, 0, 4096 + 5, mean) - SparqBytesRead(layout, 0, 4096 + 5, params),
            8 * (128 * 4 + 5 * 128 * 2));
  EXPECT_EQ(SparqBytesRead(layout, 0, 200, params), 8 * 200 * 2 * 128 * 2);
}

}  // namespace
}  // namespace kvasir
