#include "runtime/ops/paged_attention.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "tests/ops/paged_kv.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

// One sequence of the batch: `context` positions already stored, then `rows` new query rows.
struct Member {
  int context = 0;
  int rows = 1;
};

struct Case {
  int query_heads = 4;
  int kv_heads = 2;
  int k_dim = 64;
  int v_dim = 64;
  KvElementType element_type = KvElementType::kF32;
  ComputeType compute_type = ComputeType::kF32;
  int block_tokens = 32;
  std::vector<Member> batch;

  std::string Name() const {
    std::string name = std::to_string(query_heads) + "/" + std::to_string(kv_heads) +
                       " heads, dims " + std::to_string(k_dim) + "," + std::to_string(v_dim) +
                       ", " + KvElementTypeName(element_type) + ", compute " +
                       std::to_string(static_cast<int>(compute_type)) + ", blocks of " +
                       std::to_string(block_tokens) + ":";
    for (const Member& m : batch)
      name += " " + std::to_string(m.context) + "+" + std::to_string(m.rows);
    return name;
  }
};

// A batch in a poisoned pool.
struct Batch {
  explicit Batch(const Case& c, uint32_t seed = 1) : spec(c), pool(PoolSpec(c)) {
    int64_t rows = 0;
    for (const Member& m : c.batch) rows += m.rows;
    q = RandomMatrix(rows, int64_t{c.query_heads} * c.k_dim, seed);
    int32_t row = 0;
    tables.reserve(c.batch.size());
    for (size_t s = 0; s < c.batch.size(); ++s) {
      const int positions = c.batch[s].context + c.batch[s].rows;
      const Matrix k = RandomMatrix(positions, int64_t{c.kv_heads} * c.k_dim, seed + 10 + 2 * s);
      const Matrix v = RandomMatrix(positions, int64_t{c.kv_heads} * c.v_dim, seed + 11 + 2 * s);
      tables.push_back(pool.Add(k, v));
      AttentionSequence sequence;
      sequence.row_begin = row;
      sequence.num_rows = c.batch[s].rows;
      sequence.first_position = c.batch[s].context;
      sequence.blocks = tables.back();
      sequences.push_back(sequence);
      row += c.batch[s].rows;
    }
  }

  static PagedKvSpec PoolSpec(const Case& c) {
    PagedKvSpec pool_spec;
    pool_spec.kv_heads = c.kv_heads;
    pool_spec.k_dim = c.k_dim;
    pool_spec.v_dim = c.v_dim;
    pool_spec.element_type = c.element_type;
    pool_spec.block_tokens = c.block_tokens;
    pool_spec.num_blocks = 3;
    for (const Member& m : c.batch)
      pool_spec.num_blocks += (m.context + m.rows) / c.block_tokens + 1;
    return pool_spec;
  }

  double scale() const { return 1.0 / std::sqrt(spec.k_dim); }

  Matrix Run() {
    PagedAttention attention;
    MatmulInput out(spec.compute_type);
    attention.Run(View(q), spec.query_heads, static_cast<float>(scale()), sequences, pool.view(),
                  &out);
    return Floats(out);
  }

  Matrix Expected() {
    Matrix all(q.rows, int64_t{spec.query_heads} * spec.v_dim);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const int positions = sequences[s].first_position + sequences[s].num_rows;
      Matrix rows(sequences[s].num_rows, q.cols);
      std::copy_n(q.row(sequences[s].row_begin), rows.data.size(), rows.data.data());
      const Matrix out = reference::Attend(rows, pool.ReadK(tables[s], positions),
                                           pool.ReadV(tables[s], positions), spec.query_heads,
                                           spec.kv_heads, sequences[s].first_position, scale());
      std::copy_n(out.data.data(), out.data.size(), all.row(sequences[s].row_begin));
    }
    return all;
  }

  Case spec;
  PagedKv pool;
  Matrix q;
  std::vector<std::vector<BlockId>> tables;
  std::vector<AttentionSequence> sequences;
};

// f32: rounding only. bf16: queries and weights round to 8 bits; a score of unit variance moves by
// about 2^-9 * sqrt(2), and so does its weight, and the mix of values below 5 by as much of the
// largest. int8 K and V: the query's elements round to steps of its largest / 127, its weights much
// finer, which is no more. int8 output: half a step of the row's maximum on top.
double Tolerance(const Case& c) {
  const bool narrow_arithmetic =
      c.compute_type != ComputeType::kF32 && HasBf16Products() &&
      (c.element_type == KvElementType::kBf16 || c.element_type == KvElementType::kInt8);
  double tolerance = narrow_arithmetic ? 5 * 0x1p-7 : 1e-5;
  if (EffectiveComputeType(c.compute_type) == ComputeType::kBf16) tolerance += 5 * 0x1p-8;
  if (c.compute_type == ComputeType::kInt8) tolerance += 5.0 / 127 * 0.51;
  return tolerance;
}

void ExpectNaive(const Case& c) {
  Batch batch(c);
  EXPECT_LT(reference::MaxDifference(batch.Run(), batch.Expected()), Tolerance(c)) << c.Name();
}

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
        Case c;
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
                        {4, 4, 33, 31},
                        {2, 1, 1, 1},
                        {32, 8, 64, 64},
                        {130, 2, 16, 24}}) {
    for (const KvElementType element_type : kElementTypes) {
      for (const int block_tokens : {16, 48, 128}) {
        Case c;
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
    Case c;
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
      Case c;
      c.query_heads = 6;
      c.kv_heads = 2;
      c.element_type = element_type;
      c.compute_type = compute_type;
      c.batch = {{0, 600}, {513, 1}, {700, 30}};
      Batch batch(c);
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
          Matrix q(rows, batch.q.cols);
          std::copy_n(batch.q.row(begin), q.data.size(), q.data.data());
          attention.Run(View(q), 6, static_cast<float>(batch.scale()),
                        absl::MakeConstSpan(&piece, 1), batch.pool.view(), &out);
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
    Case c;
    c.element_type = element_type;
    c.batch = {{0, 1}};
    Batch batch(c);
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
      attention.Run(View(queries), query_heads, 0.15f, absl::MakeConstSpan(&sequence, 1),
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
      Case c;
      c.element_type = element_type;
      c.compute_type = compute_type;
      c.batch = {{600, 5}};
      Batch batch(c);
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
    Case c;
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
