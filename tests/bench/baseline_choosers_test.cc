#include "tests/bench/baseline_choosers.h"

#include <algorithm>
#include <random>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "tests/ops/sparq_fixture.h"
#include "tests/reference/sparq_reference.h"

namespace kvasir::bench {
namespace {

using reference::Matrix;
using reference::MaxDifference;

class BaselineChoosersTest : public ::testing::Test {
 protected:
  ~BaselineChoosersTest() override { SetComputeThreads(2); }

  template <typename T>
  T Pick(std::initializer_list<T> values) {
    return values.begin()[random_() % values.size()];
  }

  // A random pool, asked with `chooser`.
  SparqCase RandomCase(const PositionChooser* chooser) {
    SparqCase c;
    c.query_heads = Pick({2, 4, 6});
    c.kv_heads = Pick({1, 2});
    c.k_dim = Pick({8, 20, 32});
    c.v_dim = Pick({8, 32, 40});
    c.element_type = static_cast<KvElementType>(Pick({0, 1, 2, 3}));
    c.k_columns = Pick({KvColumns::kSame, KvColumns::kInt8});
    c.block_tokens = Pick({16, 32, 48});
    c.context = Pick({31, 100, 300, 511});
    c.rows = Pick({1, 3});
    c.params = {.rank = c.k_dim, .top_k = Pick({1, 7, 64, 200}), .chooser = chooser};
    c.params.local_window = std::min(c.params.top_k, Pick({0, 1, 5, 32}));
    SetComputeThreads(Pick({1, 2, 5}));
    return c;
  }

  std::mt19937 random_{23};
  const WindowChooser window_;
  const BlockBoundChooser block_bounds_;
};

TEST_F(BaselineChoosersTest, AWindowAgreesWithItsDefinition) {
  for (int round = 0; round < 40; ++round) {
    const SparqCase c = RandomCase(&window_);
    SparqFixture fixture(c);
    fixture.SetChoice([](const Matrix&, const Matrix& ranks, const SparseParams& params) {
      return reference::WindowPicks(static_cast<int>(ranks.rows), params.top_k,
                                    std::min(kSinkTokens, params.top_k - 1));
    });
    ASSERT_LT(MaxDifference(fixture.Run(c.params), fixture.Expected(c.params)), kSparqTolerance)
        << c.Name();
  }
}

TEST_F(BaselineChoosersTest, BlockBoundsAgreeWithTheirDefinition) {
  for (int round = 0; round < 40; ++round) {
    const SparqCase c = RandomCase(&block_bounds_);
    SparqFixture fixture(c);
    fixture.SetChoice([&c](const Matrix& q, const Matrix& ranks, const SparseParams& params) {
      return reference::BlockBoundPicks(q, ranks, params.top_k, params.local_window,
                                        c.block_tokens);
    });
    ASSERT_LT(MaxDifference(fixture.Run(c.params), fixture.Expected(c.params)), kSparqTolerance)
        << c.Name();
  }
}

// K and V of what is attended to; blocks' bounds are a minimum and a maximum per dimension.
TEST_F(BaselineChoosersTest, CountWhatAPoolMadeForThemWouldRead) {
  SparqCase c;
  c.element_type = KvElementType::kBf16;
  c.context = 319;  // ten full blocks
  c.params.chooser = &window_;
  SparqFixture fixture(c);
  int64_t bytes = 0;
  fixture.Run(c.params, &bytes);
  EXPECT_EQ(bytes, c.kv_heads * 64 * 2 * 32 * 2);
  c.params.chooser = &block_bounds_;
  bytes = 0;
  fixture.Run(c.params, &bytes);
  EXPECT_EQ(bytes, c.kv_heads * (64 * 2 * 32 * 2 + 10 * 2 * 32 * 2));
}

// A sequence with a chooser beside one that SparQ chooses for: each is what it is alone.
TEST_F(BaselineChoosersTest, ABatchMayMixThemWithSparq) {
  PagedKvSpec spec;
  spec.k_dim = spec.v_dim = 32;
  spec.k_columns = KvColumns::kSame;
  PagedKv pool(spec);
  Matrix q = reference::RandomMatrix(2, 64, 9);
  const std::vector<BlockId> tables[] = {
      pool.Add(reference::RandomMatrix(333, 32, 1), reference::RandomMatrix(333, 32, 2)),
      pool.Add(reference::RandomMatrix(200, 32, 3), reference::RandomMatrix(200, 32, 4))};
  const ResolvedSparq plain({SparseParams{.rank = 6, .top_k = 40}}, 0);
  const ResolvedSparq chosen({SparseParams{.rank = 32, .top_k = 64, .chooser = &block_bounds_}}, 0);
  const std::vector<SparseSequence> sequences = {{{0, 1, 332, tables[0]}, &plain},
                                                 {{1, 1, 199, tables[1]}, &chosen}};
  SparqAttention attention;
  MatmulInput batch(ComputeType::kF32), alone(ComputeType::kF32);
  const AttentionQueries queries{{q.data.data(), 2, 64, 64}, 2, {}};
  attention.Run(0, queries, 0.2f, sequences, pool.view(), &batch, /*same_kv=*/false);
  for (int i = 0; i < 2; ++i) {
    attention.Run(0, queries, 0.2f, {sequences[i]}, pool.view(), &alone, /*same_kv=*/false);
    for (int col = 0; col < 64; ++col) {
      EXPECT_EQ(static_cast<const float*>(batch.data())[i * 64 + col],
                static_cast<const float*>(alone.data())[i * 64 + col]);
    }
  }
}

}  // namespace
}  // namespace kvasir::bench
