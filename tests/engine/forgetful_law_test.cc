// Layers that forget (windows) and layers that keep a state instead of K/V obey the laws of all
// others: prefill in any chunks, a prefix hit at every split point, forks, preemption, a session's
// next turn, its way to disk and back and a restart change no token; and what they hold is what
// they should hold.
#include <filesystem>

#include "gtest/gtest.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::EngineFixture;
using testing::Scheme;
using testing::Transcript;

std::vector<TokenId> Join(std::vector<TokenId> a, const std::vector<TokenId>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class ForgetfulLawTest : public ::testing::TestWithParam<Scheme> {
 protected:
  GenerationRequest Turn(EngineFixture* f, const std::vector<TokenId>& prompt, int max_tokens) {
    GenerationRequest request = f->Request(prompt, max_tokens);
    request.session_id = "s";
    return request;
  }
};
INSTANTIATE_TEST_SUITE_P(Schemes, ForgetfulLawTest,
                         ::testing::ValuesIn(testing::ForgetfulSchemes()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(ForgetfulLawTest, AnyChunkSizeGivesTheSameOutput) {
  const auto prompt = EngineFixture::Prompt(100, 3);
  for (int chunk : {1, 2, 7, 15, 16, 17, 64}) {
    EngineFixture f(64, GetParam());
    f.config.max_running = 1;
    f.config.max_step_tokens = f.config.prefill_chunk_tokens = chunk;
    EXPECT_EQ(f.Complete(f.Request(prompt, 40)).tokens[0], f.ExpectedHere(prompt, 40)) << chunk;
    EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
  }
}

TEST_P(ForgetfulLawTest, StrangersInTheBatchAndPreemptionChangeNoOutput) {
  // Room for two of eight; a tenant that comes later takes the other's blocks.
  const KvLayout layout = testing::TinyLayout(GetParam());
  const int64_t units = 2 * layout.PeakBytes(120, 64) / static_cast<int64_t>(layout.block_bytes());
  EngineFixture f(static_cast<int>(units), GetParam());
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 8; ++i) {
    GenerationRequest request = f.Request(EngineFixture::Prompt(60, i), 60);
    request.tenant = i < 4 ? "early" : "late";
    streams.push_back(f.Submit(std::move(request)));
    if (i == 3) {
      for (int step = 0; step < 20; ++step) f.core->Step();
    }
  }
  f.RunUntilIdle();
  EXPECT_GT(f.observer.preempted.size(), 0u);
  for (int i = 0; i < 8; ++i) {
    Transcript t;
    t.Drain(streams[i].get());
    ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok()) << t.finished->status;
    EXPECT_EQ(t.tokens[0], f.ExpectedHere(EngineFixture::Prompt(60, i), 60)) << i;
  }
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
}

TEST_P(ForgetfulLawTest, PrefixHitAtEverySplitPointGivesTheSameOutput) {
  const auto prompt = EngineFixture::Prompt(100, 4);
  for (int split = 1; split <= 100; ++split) {
    EngineFixture f(64, GetParam());
    auto other = std::vector<TokenId>(prompt.begin(), prompt.begin() + split);
    f.Complete(f.Request(Join(other, EngineFixture::Prompt(20, 99)), 3));
    const Transcript t = f.Complete(f.Request(prompt, 6));
    EXPECT_EQ(t.tokens[0], f.ExpectedHere(prompt, 6)) << split;
    // Whole blocks; with states, what the last snapshot covers.
    const int unit = f.kv->layout().has_state() ? 32 : 16;
    EXPECT_EQ(t.accepted->cached_tokens, std::min(split, 99) / unit * unit) << split;
    // Once more from what that one left.
    EXPECT_EQ(f.Complete(f.Request(prompt, 6)).tokens[0], f.ExpectedHere(prompt, 6)) << split;
  }
}

TEST_P(ForgetfulLawTest, ForksShareThePromptAndDiverge) {
  const auto prompt = EngineFixture::Prompt(40, 5);
  const auto ask = [&](EngineFixture* f, int n, float temperature) {
    GenerationRequest request = f->Request(prompt, 60);
    request.n = n;
    request.sampling.temperature = temperature;
    request.sampling.seed = 3;
    return f->Complete(std::move(request)).tokens;
  };
  EngineFixture roomy(200, GetParam());
  const auto tokens = ask(&roomy, 4, 1000.0f);  // all but uniform: the completions differ
  ASSERT_EQ(tokens.size(), 4u);
  EXPECT_NE(tokens[0], tokens[1]);
  EXPECT_EQ(roomy.model->tokens_computed, 40 + 4 * 59);  // the prompt once
  EXPECT_EQ(roomy.core->stats().kv_live_bytes, 0);

  EngineFixture tight(12, GetParam());
  EXPECT_EQ(ask(&tight, 4, 1000.0f), tokens);
  EngineFixture greedy(200, GetParam());
  for (const auto& completion : ask(&greedy, 3, 0))
    EXPECT_EQ(completion, greedy.ExpectedHere(prompt, 60));
}

TEST_P(ForgetfulLawTest, ASessionGoesOnFromWhereItWas) {
  EngineFixture f(64, GetParam());
  const auto first = EngineFixture::Prompt(50, 1), second = EngineFixture::Prompt(9, 2);
  const auto a = f.Complete(Turn(&f, first, 10)).tokens[0];
  EXPECT_EQ(a, f.ExpectedHere(first, 10));
  const auto history = Join(first, a);
  f.kv->EvictCache(0);
  const int64_t before = f.model->tokens_computed;
  const Transcript t = f.Complete(Turn(&f, second, 10));
  EXPECT_EQ(t.tokens[0], f.ExpectedHere(Join(history, second), 10));
  EXPECT_EQ(t.accepted->cached_tokens, 59);
  EXPECT_EQ(f.model->tokens_computed - before, 1 + 9 + 9);

  // The client edits what was said long ago: nothing of the session's can be used, and nothing
  // wrong is.
  auto edited = Join(Join(history, second), t.tokens[0]);
  edited[20] = 7;
  GenerationRequest request = Turn(&f, edited, 6);
  request.session_full_history = true;
  EXPECT_EQ(f.Complete(std::move(request)).tokens[0], f.ExpectedHere(edited, 6));
}

TEST_P(ForgetfulLawTest, SpilledSessionsComeBackAlsoAfterARestart) {
  const auto directory = std::filesystem::path(::testing::TempDir()) /
                         ("kvasir_forgetful_" + std::to_string(::getpid()) + "_" + GetParam().name);
  std::filesystem::remove_all(directory);
  std::vector<TokenId> history = EngineFixture::Prompt(75, 1);
  const auto more = EngineFixture::Prompt(9, 2);
  {
    EngineFixture f(64, GetParam());
    f.OpenSpill(directory.string());
    history = Join(history, f.Complete(Turn(&f, history, 20)).tokens[0]);
    f.core->Shutdown();
    ASSERT_EQ(f.core->GetSession("", "s")->spilled_bytes, f.kv->layout().ExportBytes(94));
  }
  {
    EngineFixture f(64, GetParam());
    f.OpenSpill(directory.string());
    const Transcript t = f.Complete(Turn(&f, more, 10));
    EXPECT_EQ(t.tokens[0], f.ExpectedHere(Join(history, more), 10));
    EXPECT_EQ(t.accepted->cached_tokens, 94);
    EXPECT_EQ(f.model->tokens_computed, 1 + 9 + 9);
  }
  std::filesystem::remove_all(directory);
}

// A long sequence holds its windows and its state and no more, in the request's account too.
TEST_P(ForgetfulLawTest, ALongSequenceHoldsWhatItsLayersStillSee) {
  EngineFixture f(64, GetParam());
  const KvLayout& layout = f.kv->layout();
  const Transcript t = f.Complete(f.Request(EngineFixture::Prompt(300, 1), 100));
  ASSERT_TRUE(t.finished->status.ok()) << t.finished->status;
  EXPECT_LE(t.finished->usage.kv_bytes_peak, layout.PeakBytes(399, 64));
  EXPECT_GE(t.finished->usage.kv_bytes_peak, layout.HeldBytes(399));
  EXPECT_EQ(t.finished->usage.state_bytes_peak,
            static_cast<int64_t>(layout.state_bytes_per_sequence()));
  EXPECT_EQ(t.finished->usage.kv_bytes_read, t.finished->usage.kv_bytes_read_if_dense);
  EXPECT_EQ(t.finished->usage.state_bytes_read > 0, layout.has_state());
}

}  // namespace
}  // namespace kvasir
