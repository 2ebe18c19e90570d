// Sessions on their way back from disk. The file reader is replaced by one with a gate: while it is
// closed a read stands still, as on a disk that does not answer, and everything else must go on.
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/gated_reader.h"
#include "tests/fakes/engine_fixture.h"
#include "tests/kvcache/temporary_directory.h"

namespace kvasir {
namespace {

using testing::EngineFixture;
using testing::EveryScheme;
using testing::GatedReader;
using testing::Scheme;
using testing::TemporaryDirectory;
using testing::Transcript;
using State = SessionSnapshot::State;

std::vector<TokenId> Join(std::vector<TokenId> a, const std::vector<TokenId>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class RestoreTest : public ::testing::TestWithParam<Scheme> {
 protected:
  static constexpr int kBlocks = 40;

  void SetUp() override {
    f_.config.prefix_cache = false;
    f_.OpenSpill(folder_.path().string(), reader_.Function());
    f_.Start();
    for (int i = 0; i < kSessions; ++i) {
      const auto prompt = EngineFixture::Prompt(70, i + 1);
      history_[i] = Join(prompt, f_.Complete(Turn(i, prompt, 6)).tokens[0]);
    }
    // Others need the whole pool, so that every session goes to disk.
    f_.config.max_idle_session_bytes = 0;
    f_.core->UpdateTenants({});
    f_.config.max_idle_session_bytes = int64_t{1} << 40;
    f_.spill->Flush();
    for (int i = 0; i < kSessions; ++i) ASSERT_EQ(StateOf(i), State::kSpilled);
    ASSERT_EQ(f_.core->stats().kv_live_bytes, 0);
    reader_.Close();
  }
  void TearDown() override { reader_.Open(); }

  static std::string Name(int session) { return "s" + std::to_string(session); }
  State StateOf(int session) { return f_.core->GetSession("", Name(session)).value().state; }
  int64_t HeldBytes() { return f_.kv->layout().HeldBytes(75); }  // of one session's file

  GenerationRequest Turn(int session, std::vector<TokenId> prompt, int max_tokens) {
    GenerationRequest request = f_.Request(std::move(prompt), max_tokens);
    request.session_id = Name(session);
    return request;
  }

  // Submits the next turn of a session; its read stands at the gate.
  std::shared_ptr<TokenStream> StartTurn(int session, int max_tokens = 6) {
    auto stream = f_.Submit(Turn(session, next_, max_tokens));
    f_.core->Step();
    reader_.AwaitReader();
    return stream;
  }

  void ExpectGoesOn(int session, TokenStream* stream, bool from_disk) {
    Transcript t;
    t.Drain(stream);
    ASSERT_TRUE(t.finished.has_value());
    ASSERT_TRUE(t.finished->status.ok()) << t.finished->status;
    EXPECT_EQ(t.tokens[0], f_.ExpectedHere(Join(history_[session], next_), 6));
    EXPECT_EQ(t.accepted->cached_tokens, from_disk ? 75 : 0);
  }

  // Pool bytes are those of listed requests and sessions, and of nobody else.
  void ExpectExactAccounts() {
    double listed = 0;
    for (const SessionSnapshot& s : f_.core->ListSessions(std::nullopt))
      listed += s.kv_bytes_proportional;
    for (const RequestSnapshot& r : f_.core->ListRequests(std::nullopt))
      listed += r.kv_bytes_proportional;
    const EngineStats stats = f_.core->stats();
    EXPECT_NEAR(listed, static_cast<double>(stats.kv_live_bytes), 1e-3);
    EXPECT_EQ(stats.kv_live_bytes + stats.kv_cached_bytes + stats.kv_free_bytes,
              stats.kv_capacity_bytes);
    EXPECT_EQ(stats.sessions_idle + stats.sessions_busy + stats.sessions_spilled +
                  stats.sessions_evicted + stats.sessions_restoring,
              static_cast<int64_t>(f_.core->ListSessions(std::nullopt).size()));
  }

  static constexpr int kSessions = 2;
  TemporaryDirectory folder_;
  GatedReader reader_;
  EngineFixture f_{kBlocks, GetParam()};
  std::vector<TokenId> history_[kSessions];
  const std::vector<TokenId> next_ = EngineFixture::Prompt(8, 99);
};
INSTANTIATE_TEST_SUITE_P(Schemes, RestoreTest, ::testing::ValuesIn(EveryScheme()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(RestoreTest, OtherStreamsStepWhileAReadStandsStill) {
  auto turn = StartTurn(0);
  EXPECT_EQ(StateOf(0), State::kRestoring);
  EXPECT_EQ(f_.core->stats().sessions_restoring, 1);
  EXPECT_EQ(f_.core->stats().kv_live_bytes, HeldBytes());
  ExpectExactAccounts();
  const std::vector<RequestSnapshot> requests = f_.core->ListRequests(std::nullopt);
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_STREQ(requests[0].state, "restoring");

  const auto prompt = EngineFixture::Prompt(20, 50);
  auto other = f_.Submit(f_.Request(prompt, 30));
  while (f_.core->Step()) f_.clock.Advance(absl::Milliseconds(1));
  Transcript t;
  t.Drain(other.get());
  ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok());
  EXPECT_EQ(t.tokens[0], f_.ExpectedHere(prompt, 30));
  EXPECT_EQ(StateOf(0), State::kRestoring);

  reader_.Open();
  f_.RunUntilIdle();
  ExpectGoesOn(0, turn.get(), /*from_disk=*/true);
  EXPECT_EQ(StateOf(0), State::kIdle);
  ExpectExactAccounts();
}

TEST_P(RestoreTest, ACancelledTurnGivesItsBlocksBackWhenTheReadLetsGo) {
  auto turn = StartTurn(0);
  turn->Cancel();
  f_.core->Step();
  Transcript t;
  t.Drain(turn.get());
  ASSERT_TRUE(t.finished.has_value());
  EXPECT_TRUE(absl::IsCancelled(t.finished->status));
  ExpectExactAccounts();
  EXPECT_EQ(f_.core->stats().kv_live_bytes, HeldBytes()) << "the read still fills them";
  EXPECT_TRUE(absl::IsAborted(f_.core->DeleteSession("", Name(0))));
  EXPECT_TRUE(absl::IsAborted(f_.Fork("", Name(0), "fork").status()));

  // The next turn waits for the abandoned read, then has its own.
  auto again = f_.Submit(Turn(0, next_, 6));
  f_.core->Step();
  reader_.Open();
  f_.RunUntilIdle();
  ExpectGoesOn(0, again.get(), /*from_disk=*/true);
  EXPECT_TRUE(f_.observer.damaged.empty());
  ExpectExactAccounts();
}

TEST_P(RestoreTest, ATurnOfNewHistoryWaitsForAnAbandonedRead) {
  auto turn = StartTurn(0);
  turn->Cancel();
  f_.core->Step();
  GenerationRequest fresh = Turn(0, next_, 6);
  fresh.session_full_history = true;
  fresh.prompt_logprobs = 0;  // never takes what is cached
  auto stream = f_.Submit(std::move(fresh));
  EXPECT_FALSE(f_.core->Step());
  reader_.Open();
  f_.RunUntilIdle();
  Transcript t;
  t.Drain(stream.get());
  ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok());
  EXPECT_EQ(t.tokens[0], f_.ExpectedHere(next_, 6));
  ExpectExactAccounts();
}

// Layers that forget cannot go back to the middle of what was read: the turn computes, and does not
// read it again and again.
TEST_P(RestoreTest, AFileOfAHistoryThatWasEditedIsReadOnce) {
  std::vector<TokenId> edited(history_[0].begin(), history_[0].begin() + 30);
  edited = Join(edited, next_);
  GenerationRequest request = Turn(0, edited, 6);
  request.session_full_history = true;
  auto stream = f_.Submit(std::move(request));
  reader_.Open();
  f_.RunUntilIdle();
  Transcript t;
  t.Drain(stream.get());
  ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok());
  EXPECT_EQ(t.tokens[0], f_.ExpectedHere(edited, 6));
  EXPECT_EQ(f_.spill->stats().restored_total, 1);
  ExpectExactAccounts();
}

TEST_P(RestoreTest, ADeadlinePassesWhileRestoring) {
  GenerationRequest request = Turn(0, next_, 6);
  request.deadline = f_.clock.Now() + absl::Seconds(5);
  auto turn = f_.Submit(std::move(request));
  f_.core->Step();
  reader_.AwaitReader();
  EXPECT_LE(f_.core->next_timer(), f_.clock.Now() + absl::Seconds(5));
  f_.clock.Advance(absl::Seconds(6));
  f_.core->Step();
  Transcript t;
  t.Drain(turn.get());
  ASSERT_TRUE(t.finished.has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded(t.finished->status));
  reader_.Open();
  f_.RunUntilIdle();
  EXPECT_EQ(StateOf(0), State::kSpilled);
  EXPECT_EQ(f_.core->stats().kv_live_bytes, 0);
  auto again = f_.Submit(Turn(0, next_, 6));
  f_.RunUntilIdle();
  ExpectGoesOn(0, again.get(), /*from_disk=*/true);
}

TEST_P(RestoreTest, ShutdownWhileRestoringKeepsTheFiles) {
  auto first = StartTurn(0), second = f_.Submit(Turn(1, next_, 6));
  f_.core->Step();
  std::thread disk([&] { reader_.Open(); });
  f_.core->Shutdown();
  disk.join();
  for (TokenStream* stream : {first.get(), second.get()}) {
    Transcript t;
    t.Drain(stream);
    ASSERT_TRUE(t.finished.has_value());
    EXPECT_TRUE(absl::IsCancelled(t.finished->status));
  }
  EXPECT_EQ(f_.core->stats().kv_live_bytes, 0);
  EXPECT_EQ(f_.core->stats().sessions_spilled, 2);
  EXPECT_EQ(f_.spill->stats().files, 2);
  EXPECT_TRUE(f_.observer.damaged.empty());
}

TEST_P(RestoreTest, AReadThatFailsIsToldAndTheTurnComputes) {
  auto turn = StartTurn(0);
  reader_.error = EIO;
  reader_.Open();
  f_.RunUntilIdle();
  ExpectGoesOn(0, turn.get(), /*from_disk=*/false);
  EXPECT_THAT(f_.observer.damaged,
              ::testing::ElementsAre(::testing::AllOf(::testing::HasSubstr("session \"s0\""),
                                                      ::testing::HasSubstr("Input/output"))));
  EXPECT_EQ(f_.core->stats().sessions_restoring, 0);
  ExpectExactAccounts();
}

TEST_P(RestoreTest, AFileThatIsDamagedMeanwhileIsToldAndTheTurnComputes) {
  auto turn = StartTurn(0);
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-5, std::ios::end);
    const int byte = file.peek();
    file.seekp(-5, std::ios::end);
    file.put(static_cast<char>(byte ^ 0x5a));
  }
  reader_.Open();
  f_.RunUntilIdle();
  ExpectGoesOn(0, turn.get(), /*from_disk=*/false);
  EXPECT_EQ(f_.observer.damaged.size(), 1u);
  EXPECT_EQ(f_.spill->stats().files, 1) << "session 1's is judged when it is read";
  ExpectExactAccounts();
}

// A stream that grows takes what it needs from others than the restoring session, whose blocks
// cannot be had before its read ends; nobody's tokens change.
TEST_P(RestoreTest, PressureWhileRestoringChangesNoToken) {
  auto turn = StartTurn(0);
  std::vector<std::vector<TokenId>> prompts;
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 4; ++i) {
    prompts.push_back(EngineFixture::Prompt(100, 60 + i));
    streams.push_back(f_.Submit(f_.Request(prompts.back(), 120)));
  }
  for (int step = 0; step < 150; ++step) {
    f_.core->Step();
    f_.clock.Advance(absl::Milliseconds(1));
    if (step % 10 == 0) ExpectExactAccounts();
  }
  EXPECT_EQ(StateOf(0), State::kRestoring);
  reader_.Open();
  f_.RunUntilIdle();
  ExpectGoesOn(0, turn.get(), /*from_disk=*/true);
  for (size_t i = 0; i < streams.size(); ++i) {
    Transcript t;
    t.Drain(streams[i].get());
    ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok());
    EXPECT_EQ(t.tokens[0], f_.ExpectedHere(prompts[i], 120));
  }
  ExpectExactAccounts();
}

TEST_P(RestoreTest, AForkWaitsForTheReadOfItsSource) {
  std::optional<absl::StatusOr<SessionSnapshot>> answer;
  f_.core->ForkSession("", Name(0), "fork",
                       [&](absl::StatusOr<SessionSnapshot> fork) { answer = std::move(fork); });
  reader_.AwaitReader();
  EXPECT_FALSE(answer.has_value());
  EXPECT_EQ(StateOf(0), State::kRestoring);
  EXPECT_FALSE(f_.core->idle());
  const Transcript refused = f_.Complete([&] {
    reader_.Open();
    return Turn(0, next_, 6);
  }());
  EXPECT_TRUE(absl::IsAborted(refused.finished->status)) << "busy until it is forked";
  ASSERT_TRUE(answer.has_value() && answer->ok());
  EXPECT_GT((*answer)->kv_bytes_physical, 0);
  for (const std::string& name : {Name(0), std::string("fork")}) {
    GenerationRequest request = f_.Request(next_, 6);
    request.session_id = name;
    auto stream = f_.Submit(std::move(request));
    f_.RunUntilIdle();
    ExpectGoesOn(0, stream.get(), /*from_disk=*/true);
  }
  ExpectExactAccounts();
}

TEST_P(RestoreTest, ShutdownAnswersAForkThatWaits) {
  std::optional<absl::StatusOr<SessionSnapshot>> answer;
  f_.core->ForkSession("", Name(0), "fork",
                       [&](absl::StatusOr<SessionSnapshot> fork) { answer = std::move(fork); });
  reader_.AwaitReader();
  std::thread disk([&] { reader_.Open(); });
  f_.core->Shutdown();
  disk.join();
  ASSERT_TRUE(answer.has_value());
  // Whether or not the read came through meanwhile.
  EXPECT_TRUE(absl::IsCancelled(answer->status())) << answer->status();
  EXPECT_EQ(f_.core->stats().sessions_spilled, 2);
}

}  // namespace
}  // namespace kvasir
