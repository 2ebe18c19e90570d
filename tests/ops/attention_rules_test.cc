// Windows, softcaps, sinks, ALiBi and output gates of PagedAttention against the naive twin, over a
// pool whose blocks behind the windows are gone.
#include "runtime/ops/attention_rules.h"

#include <random>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "tests/ops/attention_batch.h"
#include "tests/reference/dispatch_targets.h"

namespace kvasir {
namespace {

using reference::Matrix;

const KvElementType kElementTypes[] = {KvElementType::kF32, KvElementType::kBf16,
                                       KvElementType::kF16, KvElementType::kInt8};
const ComputeType kComputeTypes[] = {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8};

std::vector<float> Sinks(int heads) {
  const Matrix m = reference::RandomMatrix(1, heads, 77, 3.0f);
  return m.data;
}

std::vector<float> Slopes(int heads) {
  std::vector<float> slopes;
  for (int h = 0; h < heads; ++h)
    slopes.push_back(static_cast<float>(std::exp2(-8.0 * (h + 1) / heads)));
  return slopes;
}

// Every rule alone, and those that some model has together.
std::vector<AttentionCase> Kinds() {
  std::vector<AttentionCase> kinds(8);
  kinds[0].rules.window = 16;
  kinds[1].rules.window = 300;
  kinds[2].rules.softcap = 2.0;
  kinds[3].rules.sinks = Sinks(kinds[3].query_heads);
  kinds[4].rules.alibi_slopes = Slopes(kinds[4].query_heads);
  kinds[5].rules.alibi_slopes = Slopes(kinds[5].query_heads);
  kinds[5].rules.alibi_rounded = true;
  kinds[6].gated = true;
  kinds[7].rules.window = 33;
  kinds[7].rules.softcap = 1.5;
  kinds[7].rules.sinks = Sinks(kinds[7].query_heads);
  kinds[7].rules.alibi_slopes = Slopes(kinds[7].query_heads);
  return kinds;
}

class AttentionRulesTest : public testing::Test {
 protected:
  void SetUp() override { SetComputeThreads(2); }
};

TEST_F(AttentionRulesTest, AgreeWithNaiveForEveryTypeAndTarget) {
  ForEachDispatchTarget([] {
    for (const KvElementType element_type : kElementTypes) {
      for (const ComputeType compute_type : kComputeTypes) {
        for (AttentionCase c : Kinds()) {
          c.element_type = element_type;
          c.compute_type = compute_type;
          c.block_tokens = 16;
          c.batch = {{0, 37}, {300, 1}, {250, 20}, {15, 1}, {16, 3}};
          ExpectNaive(c);
        }
      }
    }
  });
}

TEST_F(AttentionRulesTest, RandomBatchesAgreeWithNaive) {
  std::mt19937 random(23);
  const int windows[] = {1, 2, 15, 16, 17, 100, 256, 257, 512, 1000};
  for (int round = 0; round < 50; ++round) {
    AttentionCase c;
    c.kv_heads = 1 + random() % 3;
    c.query_heads = c.kv_heads * (1 + random() % 9);
    c.k_dim = 8 * (1 + random() % 12);
    c.v_dim = 8 * (1 + random() % 12);
    c.element_type = kElementTypes[random() % 4];
    c.compute_type = kComputeTypes[random() % 3];
    c.block_tokens = 16 * (1 + random() % 4);
    c.rules.window = windows[random() % 10];
    if (random() % 3 == 0) c.rules.softcap = 3;
    if (random() % 3 == 0) c.rules.sinks = Sinks(c.query_heads);
    if (random() % 4 == 0) c.rules.alibi_slopes = Slopes(c.query_heads);
    c.gated = random() % 3 == 0;
    for (uint32_t members = 1 + random() % 4; members > 0; --members) {
      c.batch.push_back({static_cast<int>(random() % 900),
                         1 + static_cast<int>(random() % 2 == 0 ? 0 : random() % 90)});
    }
    ExpectNaive(c);
  }
}

// Bits, not tolerances: what a row sees of a chunk and where its sums begin depend on its position
// alone.
TEST_F(AttentionRulesTest, SameBitsAloneInABatchChunkedOrOneByOneOnAnyNumberOfThreads) {
  for (const KvElementType element_type : kElementTypes) {
    for (const ComputeType compute_type : {ComputeType::kF32, ComputeType::kBf16}) {
      for (AttentionCase c : Kinds()) {
        c.element_type = element_type;
        c.compute_type = compute_type;
        c.batch = {{0, 400}, {513, 1}, {700, 30}};
        AttentionBatch batch(c);
        SetComputeThreads(1);
        const Matrix whole = batch.Run();
        for (const int threads : {2, 16}) {
          SetComputeThreads(threads);
          ASSERT_EQ(batch.Run().data, whole.data) << c.Name() << " on " << threads << " threads";
        }
        for (const int step : {1, 100}) {
          // Sequence 0 alone, in pieces.
          PagedAttention attention;
          MatmulInput out(compute_type);
          for (int begin = 0; begin < 400; begin += step) {
            const int rows = std::min(step, 400 - begin);
            AttentionSequence piece = batch.sequences[0];
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
}

// A window as long as the context hides nothing.
TEST_F(AttentionRulesTest, WideWindowIsNoWindow) {
  for (const KvElementType element_type : kElementTypes) {
    AttentionCase c;
    c.element_type = element_type;
    c.compute_type = ComputeType::kBf16;
    c.batch = {{0, 300}, {420, 1}};
    const Matrix without = AttentionBatch(c).Run();
    c.rules.window = 421;
    EXPECT_EQ(AttentionBatch(c).Run().data, without.data);
    c.rules.window = 420;
    EXPECT_NE(AttentionBatch(c).Run().data, without.data);
  }
}

// ALiBi far out: biases of thousands must not cost the near positions their digits.
TEST_F(AttentionRulesTest, AlibiKeepsItsDigitsAtLongDistances) {
  AttentionCase c;
  c.rules.alibi_slopes = {0.77f, 0.35f, 0.11f, 0.003f};
  c.batch = {{20000, 2}};
  ExpectNaive(c);
}

}  // namespace
}  // namespace kvasir
