#include "runtime/ops/paged_attention.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "tests/ops/attention_batch.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

const KvElementType kElementTypes[] = {KvElementType::kF32, KvElementType::kBf16,
                                       KvElementType::kF16, KvElementType::kInt8};
const ComputeType kComputeTypes[] = {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8};

class PagedAttentionTest : public testing::Test {
 protected:
  void SetUp() override { SetComputeThreads(2); }
};

TEST_F(PagedAttentionTest, AgreesWithNaiveForEveryTypeAndTarget) {
  ForEachDispatchTarget([] {
    for (const KvElementType element_type : kElementTypes) {
      for (const ComputeType compute_type : kComputeTypes) {
        AttentionCase c;
        c.element_type = element_type;
        c.compute_type = compute_type;
        c.batch = {{0, 1}, {0, 37}, {300, 1}, {255, 2}, {90, 20}};
        ExpectNaive(c);
      }
    }
  });
}

TEST_F(PagedAttentionTest, AgreesWithNaiveForOddShapes) {
  struct Shape {
    int query_heads, kv_heads, k_dim, v_dim;
  };
  for (const Shape s : {Shape{1, 1, 8, 8},
                        {3, 3, 24, 40},
                        {6, 2, 72, 16},
                        {12, 1, 96, 96},
                        {7, 7, 80, 80},
                        {64, 1, 128, 128},
                        {10, 5, 256, 256},
                        {4, 2, 512, 512},
                        {16, 1, 576, 512},
                        {4, 4, 33, 31},
                        {2, 1, 1, 1},
                        {32, 8, 64, 64},
                        {130, 2, 16, 24}}) {
    for (const KvElementType element_type : kElementTypes) {
      for (const int block_tokens : {16, 48, 128}) {
        AttentionCase c;
        c.query_heads = s.query_heads;
        c.kv_heads = s.kv_heads;
        c.k_dim = s.k_dim;
        c.v_dim = s.v_dim;
        c.element_type = element_type;
        c.compute_type = block_tokens == 48 ? ComputeType::kF32 : ComputeType::kBf16;
        c.block_tokens = block_tokens;
        c.batch = {{130, 1}, {0, 9}, {15, 1}, {250, 12}};
        ExpectNaive(c);
      }
    }
  }
}

TEST_F(PagedAttentionTest, RandomBatchesAgreeWithNaive) {
  std::mt19937 random(17);
  for (int round = 0; round < 40; ++round) {
    AttentionCase c;
    c.kv_heads = 1 + random() % 3;
    c.query_heads = c.kv_heads * (1 + random() % 9);
    c.k_dim = 8 * (1 + random() % 12);
    c.v_dim = 8 * (1 + random() % 12);
    c.element_type = kElementTypes[random() % 4];
    c.compute_type = kComputeTypes[random() % 3];
    c.block_tokens = 16 * (1 + random() % 4);
    for (uint32_t members = 1 + random() % 4; members > 0; --members) {
      c.batch.push_back({static_cast<int>(random() % 700),
                         1 + static_cast<int>(random() % 2 == 0 ? 0 : random() % 50)});
    }
    ExpectNaive(c);
  }
}

// Bits, not tolerances: chunks are fixed by position, so a row sees the same sums in the same
// order.
TEST_F(PagedAttentionTest, SameBitsAloneInABatchChunkedOrOneByOneOnAnyNumberOfThreads) {
  for (const KvElementType element_type : kElementTypes) {
    for (const ComputeType compute_type : {ComputeType::kF32, ComputeType::kBf16}) {
      AttentionCase c;
      c.query_heads = 6;
      c.kv_heads = 2;
      c.element_type = element_type;
      c.compute_type = compute_type;
      c.batch = {{0, 600}, {513, 1}, {700, 30}};
      AttentionBatch batch(c);
      SetComputeThreads(1);
      const Matrix whole = batch.Run();
      for (const int threads : {2, 3, 16}) {
        SetComputeThreads(threads);
        ASSERT_EQ(batch.Run().data, whole.data) << c.Name() << " on " << threads << " threads";
      }
      for (const int step : {1, 7, 256}) {
        // Sequence 0 alone, in pieces.
        const std::vector<AttentionSequence> original = batch.sequences;
        PagedAttention attention;
        MatmulInput out(compute_type);
        for (int begin = 0; begin < 600; begin += step) {
          const int rows = std::min(step, 600 - begin);
          AttentionSequence piece = original[0];
          piece.row_begin = 0;
          piece.num_rows = rows;
          piece.first_position = begin;
          attention.Run(batch.Queries(begin, rows), batch.Rules(), absl::MakeConstSpan(&piece, 1),
                        batch.pool.view(), &out);
          const Matrix part = Floats(out);
          const std::vector<float> want(whole.row(begin), whole.row(begin) + part.data.size());
          ASSERT_EQ(part.data, want) << c.Name() << " at " << begin << " in steps of " << step;
        }
      }
    }
  }
}

TEST_F(PagedAttentionTest, OneKeyReturnsItsValue) {
  for (const KvElementType element_type : kElementTypes) {
    AttentionCase c;
    c.element_type = element_type;
    c.batch = {{0, 1}};
    AttentionBatch batch(c);
    const Matrix out = batch.Run(), v = batch.pool.ReadV(batch.tables[0], 1);
    for (int h = 0; h < c.query_heads; ++h) {
      for (int i = 0; i < c.v_dim; ++i)
        ASSERT_FLOAT_EQ(out.at(0, h * c.v_dim + i), v.at(0, h / 2 * c.v_dim + i));
    }
  }
}

// Grouped heads are multi-head attention with K and V repeated, to the bit.
TEST_F(PagedAttentionTest, GroupedEqualsMultiHeadWithRepeatedHeads) {
  const int query_heads = 6, dim = 40, positions = 333;
  const Matrix q = RandomMatrix(3, query_heads * dim, 1);
  for (const int kv_heads : {1, 2, 3, 6}) {
    const Matrix k = RandomMatrix(positions, kv_heads * dim, 2),
                 v = RandomMatrix(positions, kv_heads * dim, 3);
    Matrix repeated_k(positions, query_heads * dim), repeated_v(positions, query_heads * dim);
    for (int p = 0; p < positions; ++p) {
      for (int i = 0; i < query_heads * dim; ++i) {
        const int from = i / dim / (query_heads / kv_heads) * dim + i % dim;
        repeated_k.at(p, i) = k.at(p, from);
        repeated_v.at(p, i) = v.at(p, from);
      }
    }
    std::vector<Matrix> outs;
    for (const bool repeated : {false, true}) {
      PagedKvSpec spec;
      spec.kv_heads = repeated ? query_heads : kv_heads;
      spec.k_dim = spec.v_dim = dim;
      PagedKv pool(spec);
      const auto blocks = repeated ? pool.Add(repeated_k, repeated_v) : pool.Add(k, v);
      AttentionSequence sequence;
      sequence.num_rows = 3;
      sequence.first_position = positions - 3;
      sequence.blocks = blocks;
      Matrix queries = q;
      PagedAttention attention;
      MatmulInput out(ComputeType::kF32);
      AttentionRules rules;
      rules.scale = 0.15f;
      attention.Run({View(queries), query_heads, {}}, rules, absl::MakeConstSpan(&sequence, 1),
                    pool.view(), &out);
      outs.push_back(Floats(out));
    }
    EXPECT_EQ(outs[0].data, outs[1].data) << kv_heads;
  }
}

// Scores of hundreds, all mass on one key: the running maximum must not overflow or lose it.
TEST_F(PagedAttentionTest, SurvivesLargeScores) {
  for (const KvElementType element_type : kElementTypes) {
    for (const ComputeType compute_type : {ComputeType::kF32, ComputeType::kBf16}) {
      AttentionCase c;
      c.element_type = element_type;
      c.compute_type = compute_type;
      c.batch = {{600, 5}};
      AttentionBatch batch(c);
      for (float& x : batch.q.data) x *= 300;
      const Matrix out = batch.Run();
      for (const float x : out.data) ASSERT_TRUE(std::isfinite(x)) << c.Name();
      if (compute_type ==
          ComputeType::kF32) {  // with bf16 queries, ties between large scores may flip
        ASSERT_LT(reference::MaxDifference(out, batch.Expected()), 3e-3) << c.Name();
      }
    }
  }
}

TEST_F(PagedAttentionTest, LongDecodeIsSplitAndStillRight) {
  for (const int threads : {1, 2, 7}) {
    SetComputeThreads(threads);
    AttentionCase c;
    c.query_heads = 8;
    c.kv_heads = 1;
    c.element_type = KvElementType::kBf16;
    c.compute_type = ComputeType::kF32;
    c.batch = {{8191, 1}, {3, 1}};
    ExpectNaive(c);
  }
}

}  // namespace
}  // namespace kvasir
