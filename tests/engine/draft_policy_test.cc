// Where drafts come from and how many are checked: decisions from given histories and timings.
#include <map>

#include "gtest/gtest.h"
#include "runtime/engine/speculation/draft_lengths.h"
#include "runtime/engine/speculation/ngram_drafter.h"
#include "runtime/engine/speculation/step_cost.h"

namespace kvasir {
namespace {

using Tokens = std::vector<TokenId>;

Tokens Propose(const Tokens& history, int most) {
  NgramIndex drafter;
  return drafter.Propose(history, most);
}

TEST(NgramIndexTest, ContinuesTheLongestMatch) {
  //                    v longest common end: 2 3 4 5          v newest 3 4 5
  EXPECT_EQ(Propose({1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4, 5, 10, 2, 3, 4, 5}, 3), (Tokens{6, 7, 8}));
  // Of equals the newest.
  EXPECT_EQ(Propose({1, 2, 3, 7, 0, 1, 2, 3, 8, 0, 9, 1, 2, 3}, 2), (Tokens{8, 0}));
}

TEST(NgramIndexTest, HasNoIdeaWhereNothingRepeats) {
  EXPECT_TRUE(Propose({}, 4).empty());
  EXPECT_TRUE(Propose({1}, 4).empty());
  EXPECT_TRUE(Propose({1, 2, 3}, 4).empty());
  EXPECT_TRUE(Propose({1, 2, 3, 4, 2, 3}, 4).empty());  // a pair is no match
  EXPECT_TRUE(Propose({1, 2, 3, 4, 1, 2, 3}, 0).empty());
}

TEST(NgramIndexTest, GoesOnWithALoop) {
  EXPECT_EQ(Propose({9, 1, 2, 1, 2, 1, 2, 1}, 7), (Tokens{2, 1, 2, 1, 2, 1, 2}));
  EXPECT_EQ(Propose({5, 5, 5, 5, 5}, 3), (Tokens{5, 5, 5}));
}

// Beside a naive search, over a history that grows by what was proposed and by other tokens.
TEST(NgramIndexTest, TheGrowingIndexFindsWhatASearchFinds) {
  NgramIndex drafter;
  Tokens history;
  uint64_t random = 1;
  for (int step = 0; step < 3000; ++step) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    history.push_back(static_cast<TokenId>((random >> 40) % 5));
    if (step % 3 != 0) continue;
    const Tokens draft = drafter.Propose(history, 4);
    const int size = static_cast<int>(history.size());
    // The newest kMaxCandidates places of the same key; hashes of 125 keys collide, and then fewer.
    int longest = 0;
    for (int place = size - 2; place >= 2; --place) {
      int length = 0;
      while (length <= place && length < NgramIndex::kMaxMatchTokens &&
             history[place - length] == history[size - 1 - length]) {
        ++length;
      }
      longest = std::max(longest, length);
    }
    EXPECT_EQ(draft.empty(), longest < NgramIndex::kKeyTokens) << step;
    EXPECT_LE(drafter.index_bytes(), 32 * size + 4096);
  }
  EXPECT_EQ(drafter.Propose(Tokens{1, 2, 3, 4, 1, 2, 3}, 2), (Tokens{4, 1}));  // another history
}

TEST(AcceptanceRateTest, FollowsWhatIsAccepted) {
  AcceptanceRate rate(0.5);
  for (int i = 0; i < 10; ++i) rate.Note(4, 4);
  EXPECT_GT(rate.rate(), 0.99);
  for (int i = 0; i < 20; ++i) rate.Note(4, 0);
  EXPECT_LT(rate.rate(), 0.05);
  // What stands behind a wrong token says nothing.
  AcceptanceRate one(0.5), many(0.5);
  one.Note(1, 0);
  many.Note(8, 0);
  EXPECT_EQ(one.rate(), many.rate());
}

TEST(AcceptanceRateTest, ProbesEverMoreSeldom) {
  AcceptanceRate rate(0.1);
  std::vector<int> gaps;
  for (int step = 0, last = 0; step < 4000; ++step) {
    if (!rate.ProbeDue()) continue;
    gaps.push_back(step - last);
    last = step;
    rate.Note(2, 0);
  }
  ASSERT_GE(gaps.size(), 6u);
  EXPECT_TRUE(std::is_sorted(gaps.begin(), gaps.end()));
  EXPECT_LE(gaps.back(), 512);
  rate.Note(2, 1);  // the text repeats again
  int steps = 1;
  while (!rate.ProbeDue()) ++steps;
  EXPECT_EQ(steps, 32);
}

StepCost Measured(int sequences, const std::map<int, double>& seconds_by_drafted) {
  StepCost cost;
  for (int round = 0; round < 50; ++round) {
    for (const auto& [drafted, seconds] : seconds_by_drafted)
      cost.Observe(sequences, drafted, seconds);
  }
  return cost;
}

std::vector<int32_t> Choose(std::vector<DraftCandidate> candidates, int sequences, int room,
                            const StepCost& cost, double draft_seconds = 0) {
  return ChooseDraftLengths(candidates, sequences, room, cost, draft_seconds);
}

TEST(StepCostTest, InterpolatesAndForgets) {
  StepCost cost = Measured(1, {{0, 1.0}, {4, 1.4}, {8, 3.0}});
  EXPECT_NEAR(cost.Predict(1, 0), 1.0, 1e-6);
  EXPECT_NEAR(cost.Predict(1, 2), 1.2, 1e-6);
  EXPECT_NEAR(cost.Predict(1, 6), 2.2, 1e-6);
  EXPECT_NEAR(cost.Predict(1, 16), 5.0, 1e-6);
  cost.Observe(1, 0, 1000);  // one slow step
  EXPECT_LE(cost.Predict(1, 0), 1.2 + 1e-6);
  for (int i = 0; i < 40; ++i) cost.Observe(1, 0, 0.5);
  EXPECT_NEAR(cost.Predict(1, 0), 0.5, 0.01);
  cost.Observe(1, 0, 0);  // a clock that stands still says nothing
  EXPECT_NEAR(cost.Predict(1, 0), 0.5, 0.01);
}

TEST(StepCostTest, AsksForPlainSteps) {
  StepCost cost;
  EXPECT_TRUE(cost.WantsPlainStep(1));
  cost.Observe(1, 0, 0);  // it ran, whatever the clock says
  EXPECT_FALSE(cost.WantsPlainStep(1));
  EXPECT_TRUE(cost.WantsPlainStep(16));  // other sizes are not known yet
  int steps = 0;
  while (!cost.WantsPlainStep(1)) cost.Observe(1, 4, 0.1), ++steps;
  EXPECT_EQ(steps, 64);
  cost.Observe(1, 0, 0.1);
  EXPECT_FALSE(cost.WantsPlainStep(1));
}

TEST(ChooseDraftLengthsTest, TakesWhatPays) {
  // Memory bounds the pass: rows are all but free.
  const StepCost flat = Measured(1, {{0, 1.0}, {8, 1.1}});
  EXPECT_EQ(Choose({{0.95, 8}}, 1, 100, flat), (std::vector<int32_t>{8}));
  EXPECT_EQ(Choose({{0.95, 8}}, 1, 5, flat), (std::vector<int32_t>{5}));
  EXPECT_EQ(Choose({{0.01, 8}}, 1, 100, flat), (std::vector<int32_t>{0}));
  // A row costs as much as a token: nothing pays.
  const StepCost steep = Measured(1, {{0, 1.0}, {1, 2.0}, {8, 9.0}});
  EXPECT_EQ(Choose({{0.95, 8}}, 1, 100, steep), (std::vector<int32_t>{0}));
  // The draft model's own time counts.
  EXPECT_EQ(Choose({{0.9, 8}}, 1, 100, flat, 1.0), (std::vector<int32_t>{0}));
  // A second kernel for more than one row: its price is paid once.
  const StepCost jump = Measured(1, {{0, 1.0}, {1, 1.9}, {8, 2.0}});
  EXPECT_GE(Choose({{0.95, 8}}, 1, 100, jump)[0], 7);
  EXPECT_EQ(Choose({{0.95, 1}}, 1, 100, jump)[0], 0);
}

TEST(ChooseDraftLengthsTest, SharesAStepByTheChances) {
  const StepCost flat = Measured(3, {{0, 1.0}, {8, 1.05}});
  const auto lengths = Choose({{0.9, 8}, {0.2, 8}, {0.9, 2}}, 3, 8, flat);
  EXPECT_EQ(lengths[2], 2);
  EXPECT_GT(lengths[0], lengths[1]);
  EXPECT_LE(lengths[0] + lengths[1] + lengths[2], 8);
  EXPECT_EQ(Choose({}, 3, 8, flat), std::vector<int32_t>());
}

}  // namespace
}  // namespace kvasir
