// Models that rotate the positions of a long context in another way (longrope): which way is chosen
// once per request, by all that its prompt and max_tokens may come to, and K/V of one kind never
// serves the other: not from the prefix cache, not from a session, not from a file.
#include <filesystem>

#include "gtest/gtest.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::EngineFixture;
using testing::Scheme;
using testing::Transcript;

constexpr int kShortTokens = 100;

std::vector<TokenId> Join(std::vector<TokenId> a, const std::vector<TokenId>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class LongContextTest : public ::testing::TestWithParam<Scheme> {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 ("kvasir_long_context_test_" + std::to_string(::getpid()) + GetParam().name);
    std::filesystem::remove_all(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static std::unique_ptr<EngineFixture> Make(int num_blocks = 64) {
    auto f = std::make_unique<EngineFixture>(num_blocks, GetParam());
    f->short_context_tokens = kShortTokens;
    return f;
  }
  static GenerationRequest Turn(EngineFixture* f, std::vector<TokenId> prompt, int max_tokens) {
    GenerationRequest request = f->Request(std::move(prompt), max_tokens);
    request.session_id = "s";
    return request;
  }

  std::filesystem::path directory_;
};
INSTANTIATE_TEST_SUITE_P(Schemes, LongContextTest, ::testing::ValuesIn(testing::EveryScheme()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(LongContextTest, PromptAndMaxTokensDecideTogether) {
  const auto prompt = EngineFixture::Prompt(60, 1);
  auto f = Make();
  // The last token's K/V is never computed: 60 + 41 tokens take 100 positions.
  EXPECT_EQ(f->Complete(f->Request(prompt, 41)).tokens[0], f->ExpectedHere(prompt, 41, false));
  EXPECT_EQ(f->Complete(f->Request(prompt, 42)).tokens[0], f->ExpectedHere(prompt, 42, true));
  // What would be generated in vain counts too: it is chosen before the first token.
  const auto long_tokens = f->ExpectedHere(prompt, 42, true);
  GenerationRequest stops = f->Request(prompt, 300);
  stops.stopping.stop_token_ids = {long_tokens[3]};
  const Transcript stopped = f->Complete(std::move(stops));
  EXPECT_EQ(stopped.tokens[0][0], long_tokens[0]);
  EXPECT_LT(stopped.tokens[0].size(), 42u);
  // A context within the short one is short whatever is asked for.
  auto bounded = Make();
  bounded->config.max_context_tokens = kShortTokens;
  EXPECT_EQ(bounded->Complete(bounded->Request(prompt, 300)).tokens[0],
            bounded->ExpectedHere(prompt, 41, false));
}

TEST_P(LongContextTest, ThePrefixCacheServesEachKindItsOwn) {
  const auto prompt = EngineFixture::Prompt(80, 2);
  auto f = Make();
  f->config.prefill_chunk_tokens = 16;
  const auto ask = [&](int max_tokens, int cached_tokens) {
    const Transcript t = f->Complete(f->Request(prompt, max_tokens));
    EXPECT_EQ(t.accepted->cached_tokens, cached_tokens) << max_tokens;
    EXPECT_EQ(t.tokens[0], f->ExpectedHere(prompt, max_tokens, max_tokens > 21)) << max_tokens;
  };
  constexpr int kFound = 64;  // of whole blocks below 80 tokens, snapshots every 32
  ask(5, 0);
  ask(50, 0);
  ask(5, kFound);
  ask(50, kFound);
}

TEST_P(LongContextTest, ForksAndPreemptedOnesKeepTheirKind) {
  // Two fit; four come, short and long in turn.
  const int64_t units = 2 * testing::TinyLayout(GetParam()).PeakBytes(130, 64) /
                        static_cast<int64_t>(testing::TinyLayout(GetParam()).block_bytes());
  auto f = Make(static_cast<int>(units));
  std::vector<std::shared_ptr<TokenStream>> streams;
  const auto lengths = std::vector<int>{40, 90, 40, 90};
  for (int i = 0; i < 4; ++i) {
    GenerationRequest request = f->Request(EngineFixture::Prompt(40, 3), lengths[i]);
    request.n = i == 3 ? 2 : 1;
    request.tenant = i < 2 ? "early" : "late";
    streams.push_back(f->Submit(std::move(request)));
    if (i == 1) {
      for (int step = 0; step < 10; ++step) f->core->Step();
    }
  }
  f->RunUntilIdle();
  for (int i = 0; i < 4; ++i) {
    Transcript t;
    t.Drain(streams[i].get());
    ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok()) << t.finished->status;
    for (const auto& tokens : t.tokens) {
      EXPECT_EQ(tokens, f->ExpectedHere(EngineFixture::Prompt(40, 3), lengths[i], lengths[i] == 90))
          << i;
    }
  }
}

// A session crosses into the long context, and the client may come back from there by a shorter
// turn: each time the history is computed anew, and the answer is that of the whole history in one
// prompt.
TEST_P(LongContextTest, ASessionThatCrossesIsComputedAnew) {
  for (const bool prefix_cache : {false, true}) {
    auto f = Make();
    f->config.prefix_cache = prefix_cache;
    std::vector<TokenId> history;
    struct Step {
      int new_tokens, max_tokens;
      bool is_long, goes_on;
    };
    const std::vector<Step> steps = {
        {40, 10, false, false}, {10, 10, false, true}, {10, 60, true, false}, {5, 60, true, true}};
    int seed = 10;
    for (const Step& step : steps) {
      const auto next = EngineFixture::Prompt(step.new_tokens, ++seed);
      const int known = static_cast<int>(history.size());
      const Transcript t = f->Complete(Turn(f.get(), next, step.max_tokens));
      history = Join(history, next);
      const auto expected = f->ExpectedHere(history, step.max_tokens, step.is_long);
      EXPECT_EQ(t.tokens[0], expected) << known;
      EXPECT_EQ(t.accepted->cached_tokens, step.goes_on ? known - 1 : 0) << known;
      history = Join(history, expected);
    }
  }
}

TEST_P(LongContextTest, AFailedTurnOfTheOtherKindLeavesTheSession) {
  auto f = Make();
  f->config.prefix_cache = false;
  const auto first = EngineFixture::Prompt(40, 4), next = EngineFixture::Prompt(6, 5);
  const auto history = Join(first, f->Complete(Turn(f.get(), first, 10)).tokens[0]);
  auto stream = f->Submit(Turn(f.get(), EngineFixture::Prompt(20, 6), 100));
  for (int i = 0; i < 6; ++i) f->core->Step();
  stream->Cancel();
  f->core->Step();
  const Transcript t = f->Complete(Turn(f.get(), next, 10));
  EXPECT_EQ(t.accepted->cached_tokens, static_cast<int>(history.size()) - 1);
  EXPECT_EQ(t.tokens[0], f->ExpectedHere(Join(history, next), 10, false));
}

TEST_P(LongContextTest, FilesSayForWhichKindTheyAre) {
  const auto first = EngineFixture::Prompt(40, 7), next = EngineFixture::Prompt(6, 8);
  for (const int max_tokens : {10, 80}) {
    for (const int then : {5, 90}) {
      std::filesystem::remove_all(directory_);
      std::vector<TokenId> history;
      {
        auto f = Make();
        f->OpenSpill(directory_.string());
        history = Join(first, f->Complete(Turn(f.get(), first, max_tokens)).tokens[0]);
        f->core->Shutdown();
      }
      auto f = Make();
      f->OpenSpill(directory_.string());
      ASSERT_EQ(f->Start()->GetSession("", "s")->state, SessionSnapshot::State::kSpilled);
      const int known = static_cast<int>(history.size());
      const bool then_long = known + 6 + then - 1 > kShortTokens;
      const Transcript t = f->Complete(Turn(f.get(), next, then));
      EXPECT_EQ(t.accepted->cached_tokens, (max_tokens == 80) == then_long ? known - 1 : 0);
      EXPECT_EQ(t.tokens[0], f->ExpectedHere(Join(history, next), then, then_long));
      f->core->Shutdown();
    }
  }
}

}  // namespace
}  // namespace kvasir
