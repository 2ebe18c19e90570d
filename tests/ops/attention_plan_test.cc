#include "runtime/ops/attention_plan.h"

#include <map>
#include <random>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

constexpr int kTileRows = 64;

// Every (sequence, head, token, chunk) that attention has to visit, and how often the plan does.
using Visit = std::tuple<int, int, int, int>;

void ExpectCoversEverythingOnce(const std::vector<AttentionSequence>& sequences, int kv_heads,
                                int group, int window, int threads) {
  AttentionPlan plan;
  AttentionRules rules;
  rules.window = window;
  plan.Build(sequences, kv_heads, group, rules, kTileRows, threads);
  std::map<Visit, int> visits;
  for (const AttentionTask& task : plan.tasks()) {
    ASSERT_LE(task.num_tokens * group, plan.max_rows());
    ASSERT_LT(task.chunk_begin, task.chunk_end);
    if (task.split < 0) {
      ASSERT_EQ(task.chunk_begin,
                rules.FirstSeen(sequences[task.sequence].first_position + task.first_token) /
                    kChunkTokens);
    } else {
      const AttentionSplit& split = plan.splits()[task.split];
      ASSERT_EQ(std::tie(split.sequence, split.kv_head, split.first_token, split.num_tokens),
                std::tie(task.sequence, task.kv_head, task.first_token, task.num_tokens));
      ASSERT_GE(task.chunk_begin, split.first_chunk);
      ASSERT_LE(task.chunk_end, split.first_chunk + split.num_chunks);
      ASSERT_LE(split.first_partial + split.num_chunks, plan.num_partials());
    }
    for (int t = 0; t < task.num_tokens; ++t) {
      for (int c = task.chunk_begin; c < task.chunk_end; ++c) {
        ++visits[{task.sequence, task.kv_head, task.first_token + t, c}];
      }
    }
  }
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int head = 0; head < kv_heads; ++head) {
      for (int t = 0; t < sequences[s].num_rows; ++t) {
        const int position = sequences[s].first_position + t;
        for (int c = rules.FirstSeen(position) / kChunkTokens; c * kChunkTokens <= position; ++c) {
          ASSERT_EQ((visits[{static_cast<int>(s), head, t, c}]), 1)
              << s << " " << head << " " << t << " " << c;
        }
      }
    }
  }
}

TEST(AttentionPlan, CoversEveryPairOnce) {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    std::vector<AttentionSequence> sequences(1 + random() % 5);
    for (AttentionSequence& sequence : sequences) {
      sequence.num_rows = random() % 2 == 0 ? 1 : 1 + static_cast<int>(random() % 90);
      sequence.first_position = static_cast<int>(random() % (random() % 2 == 0 ? 40 : 9000));
    }
    const int groups[] = {1, 3, 8, 64}, windows[] = {0, 1, 300, 4096};
    ExpectCoversEverythingOnce(sequences, 1 + random() % 4, groups[random() % 4],
                               windows[random() % 4], 1 + random() % 9);
  }
}

TEST(AttentionPlan, OneLongSequenceWithOneHeadFeedsEveryThread) {
  AttentionSequence sequence;
  sequence.num_rows = 1;
  sequence.first_position = 16383;  // 64 chunks
  AttentionPlan plan;
  plan.Build(absl::MakeConstSpan(&sequence, 1), 1, 32, {}, kTileRows, 8);
  EXPECT_EQ(plan.splits().size(), 1u);
  EXPECT_GE(plan.tasks().size(), 16u);
  EXPECT_EQ(plan.num_partials(), 64);
}

TEST(AttentionPlan, EvenBatchesAreNotSplit) {
  std::vector<AttentionSequence> sequences(16);
  for (AttentionSequence& sequence : sequences) {
    sequence.num_rows = 1;
    sequence.first_position = 2000;
  }
  AttentionPlan plan;
  plan.Build(sequences, 8, 4, {}, kTileRows, 4);
  EXPECT_TRUE(plan.splits().empty());
  EXPECT_EQ(plan.tasks().size(), 128u);
}

TEST(AttentionPlan, NoSequencesNoTasks) {
  AttentionPlan plan;
  plan.Build({}, 8, 4, {}, kTileRows, 4);
  EXPECT_TRUE(plan.tasks().empty());
}

}  // namespace
}  // namespace kvasir
