// ModelDrafter on a model whose every token depends on every cached position.
#include "runtime/engine/speculation/model_drafter.h"

#include "gtest/gtest.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::DummyModel;
using testing::EngineFixture;

class ModelDrafterTest : public ::testing::Test {
 protected:
  static constexpr int32_t kPass = 16;

  ModelDrafterTest() { sampling_.temperature = 0; }

  ModelDrafter Drafter(int32_t prompt_tokens) {
    return ModelDrafter(&model_, &sampling_, /*completion_index=*/0, prompt_tokens,
                        /*long_context=*/false);
  }
  std::vector<TokenId> Behind(const std::vector<TokenId>& history, int count) const {
    const auto all =
        DummyModel::Greedy(fixture_.kv->layout(), history, count, EngineFixture::kVocab);
    return {all.begin() + static_cast<int64_t>(history.size()), all.end()};
  }

  // Only its pool and its model.
  EngineFixture fixture_{8, testing::AllSchemes()[0]};
  DummyModel* const forward_ = fixture_.model.get();
  const DraftModel model_ = {.forward = forward_,
                             .kv = fixture_.kv.get(),
                             .vocab_size = EngineFixture::kVocab,
                             .target_vocab_size = EngineFixture::kVocab,
                             .max_context_tokens = 512,
                             .max_step_tokens = kPass};
  SamplingParams sampling_;
};

TEST_F(ModelDrafterTest, ALongPromptTakesOnePassPerCall) {
  std::vector<TokenId> history = EngineFixture::Prompt(40, 1);
  ModelDrafter drafter = Drafter(40);
  // The sequence goes on meanwhile.
  for (int call = 1; call <= 2; ++call) {
    EXPECT_TRUE(drafter.Propose(history, 3).empty());
    EXPECT_EQ(forward_->steps, call);
    EXPECT_EQ(forward_->tokens_computed, kPass * call);
    history.push_back(Behind(history, 1)[0]);
  }
  EXPECT_EQ(drafter.Propose(history, 3), Behind(history, 3));
  // The rest of the history in one pass, and each guess but the last.
  EXPECT_EQ(forward_->steps, 2 + 1 + 2);
  EXPECT_EQ(forward_->tokens_computed, 42 + 2);
}

TEST_F(ModelDrafterTest, WhatWasGuessedWrongIsComputedAnew) {
  std::vector<TokenId> history = EngineFixture::Prompt(10, 2);
  ModelDrafter drafter = Drafter(10);
  for (int round = 0; round < 5; ++round) {
    const std::vector<TokenId> draft = drafter.Propose(history, 4);
    EXPECT_EQ(draft, Behind(history, 4)) << round;
    history.push_back(draft[0]);
    history.push_back(draft[1] ^ 1);
  }
}

TEST_F(ModelDrafterTest, HasNoIdeaInAFullPoolAndFindsBackFromIt) {
  BlockTable other = fixture_.kv->NewTable();
  ASSERT_TRUE(fixture_.kv->Reserve(&other, 7 * 16));
  const std::vector<TokenId> history = EngineFixture::Prompt(16, 3);
  ModelDrafter drafter = Drafter(16);
  EXPECT_EQ(drafter.Propose(history, 4).size(), 1u);  // the second would need another block
  EXPECT_TRUE(drafter.Propose(EngineFixture::Prompt(33, 3), 4).empty());
  other.Clear();
  EXPECT_EQ(drafter.Propose(history, 4), Behind(history, 4));
}

}  // namespace
}  // namespace kvasir
