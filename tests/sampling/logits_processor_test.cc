#include "runtime/sampling/logits_processor.h"

#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

TEST(TokenCountsTest, CountsOutputAndRemembersPrompt) {
  TokenCounts counts(std::vector<TokenId>{5, 2, 5});
  counts.Add(2);
  counts.Add(9);
  counts.Add(9);
  ASSERT_EQ(counts.entries().size(), 3u);
  const auto entry = [&](int i) { return counts.entries()[i]; };
  EXPECT_EQ(entry(0).token, 5);
  EXPECT_TRUE(entry(0).in_prompt);
  EXPECT_EQ(entry(0).output_count, 0);
  EXPECT_EQ(entry(1).token, 2);
  EXPECT_TRUE(entry(1).in_prompt);
  EXPECT_EQ(entry(1).output_count, 1);
  EXPECT_EQ(entry(2).token, 9);
  EXPECT_FALSE(entry(2).in_prompt);
  EXPECT_EQ(entry(2).output_count, 2);
}

TEST(TokenCountsTest, CopiesAreIndependent) {
  TokenCounts first(std::vector<TokenId>{1});
  TokenCounts second = first;
  second.Add(1);
  second.Add(3);
  EXPECT_EQ(first.entries().size(), 1u);
  EXPECT_EQ(first.entries()[0].output_count, 0);
  EXPECT_EQ(second.entries().size(), 2u);
}

TEST(ApplyToLogitsTest, DefaultsChangeNothing) {
  EXPECT_FALSE(ChangesLogits(SamplingParams{}, {}));
  EXPECT_FALSE(TokenCounts::Needed(SamplingParams{}));
  std::vector<float> logits = {1, -2, 0};
  ApplyToLogits(SamplingParams{}, nullptr, {}, absl::MakeSpan(logits));
  EXPECT_THAT(logits, ElementsAre(1, -2, 0));
}

TEST(ApplyToLogitsTest, RepetitionPenaltyTakesPromptAndOutputAndBothSigns) {
  SamplingParams params;
  params.repetition_penalty = 2.0f;
  TokenCounts counts(std::vector<TokenId>{0, 1});
  counts.Add(3);
  counts.Add(3);  // once, however often
  std::vector<float> logits = {4, -4, 4, 6, 0};
  ApplyToLogits(params, &counts, {}, absl::MakeSpan(logits));
  EXPECT_THAT(logits, ElementsAre(2, -8, 4, 3, 0));
}

TEST(ApplyToLogitsTest, PresenceAndFrequencyTakeTheOutputOnly) {
  SamplingParams params;
  params.presence_penalty = 0.5f;
  params.frequency_penalty = 0.25f;
  TokenCounts counts(std::vector<TokenId>{0, 1});
  counts.Add(1);
  counts.Add(2);
  counts.Add(2);
  counts.Add(2);
  std::vector<float> logits = {1, 1, 1, 1};
  ApplyToLogits(params, &counts, {}, absl::MakeSpan(logits));
  EXPECT_THAT(logits, ElementsAre(1, 0.25f, -0.25f, 1));
}

TEST(ApplyToLogitsTest, NegativePenaltiesEncourage) {
  SamplingParams params;
  params.presence_penalty = -1.0f;
  TokenCounts counts;
  counts.Add(1);
  std::vector<float> logits = {1, 1};
  ApplyToLogits(params, &counts, {}, absl::MakeSpan(logits));
  EXPECT_THAT(logits, ElementsAre(1, 2));
}

TEST(ApplyToLogitsTest, TheOrderIsPenaltiesThenBiasThenBans) {
  SamplingParams params;
  params.repetition_penalty = 2.0f;
  params.presence_penalty = 1.0f;
  params.logit_bias = {{0, 10.0f}, {1, 100.0f}};
  TokenCounts counts;
  counts.Add(0);
  counts.Add(1);
  std::vector<float> logits = {4, 4, 4};
  const std::vector<TokenId> banned = {1};
  ApplyToLogits(params, &counts, banned, absl::MakeSpan(logits));
  EXPECT_THAT(logits, ElementsAre(4.0f / 2 - 1 + 10, kNegativeInfinity, 4));
}

TEST(ApplyToLogitsTest, IdsOutsideTheRowAreIgnored) {
  SamplingParams params;
  params.repetition_penalty = 2.0f;
  params.logit_bias = {{-1, 5.0f}, {2, 5.0f}};
  TokenCounts counts(std::vector<TokenId>{-3, 2, 1 << 30});
  const std::vector<TokenId> banned = {-1, 2, 151643};
  std::vector<float> logits = {1, 2};
  ApplyToLogits(params, &counts, banned, absl::MakeSpan(logits));
  EXPECT_THAT(logits, ElementsAre(1, 2));
}

}  // namespace
}  // namespace kvasir
