// Random life of sessions beside a naive twin that knows only each session's history: turns
// (continuations and edited full histories, several at once), cancels, forks, deletes, expiry,
// memory pressure, spill, damaged files, restarts. After every operation: outputs equal the twin's,
// the pool's sums hold, and proportional bytes add up to live bytes.
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "gtest/gtest.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::EngineFixture;
using testing::Scheme;
using testing::Transcript;

constexpr int kPoolBlocks = 40;
constexpr int kContext = 300;

class SessionPropertyTest : public ::testing::TestWithParam<Scheme> {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 ("kvasir_session_property_" + std::to_string(::getpid()) + "_" + GetParam().name);
    std::filesystem::remove_all(directory_);
    Open();
  }
  void TearDown() override {
    engine_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Open() {
    engine_ = std::make_unique<EngineFixture>(kPoolBlocks, GetParam());
    engine_->config.max_context_tokens = kContext;
    engine_->config.max_sessions = 12;
    engine_->config.session_ttl = absl::Hours(1);
    engine_->OpenSpill(directory_.string());
    engine_->Start();
  }

  int Random(int below) { return static_cast<int>(random_() % static_cast<unsigned>(below)); }
  std::string Name() { return "s" + std::to_string(Random(10)); }

  struct Turn {
    std::string session;
    std::vector<TokenId> tokens;  // history and prompt, as the model must see them
    int max_tokens;
    std::shared_ptr<TokenStream> stream;
    Transcript transcript;
  };

  Turn StartTurn(const std::string& name) {
    const std::vector<TokenId>& history = twin_[name];
    Turn turn;
    turn.session = name;
    turn.max_tokens = 1 + Random(20);
    std::vector<TokenId> prompt = EngineFixture::Prompt(1 + Random(50), Random(1000));
    GenerationRequest request;
    if (!history.empty() && Random(3) == 0) {  // the client edits what was said
      turn.tokens.assign(history.begin(),
                         history.begin() + Random(static_cast<int>(history.size()) + 1));
      turn.tokens.insert(turn.tokens.end(), prompt.begin(), prompt.end());
      request = engine_->Request(turn.tokens, turn.max_tokens);
      request.session_full_history = true;
    } else {
      turn.tokens = history;
      turn.tokens.insert(turn.tokens.end(), prompt.begin(), prompt.end());
      request = engine_->Request(prompt, turn.max_tokens);
    }
    request.session_id = name;
    turn.stream = engine_->Submit(std::move(request));
    return turn;
  }

  void EndTurn(Turn* turn, bool cancelled) {
    turn->transcript.Drain(turn->stream.get());
    ASSERT_TRUE(turn->transcript.finished.has_value());
    const absl::Status& status = turn->transcript.finished->status;
    const auto forget_if_new = [&] {
      if (twin_[turn->session].empty()) twin_.erase(turn->session);
    };
    if (static_cast<int>(turn->tokens.size()) > kContext) {
      ASSERT_TRUE(absl::IsInvalidArgument(status)) << status;
      return forget_if_new();
    }
    if (!status.ok()) {
      ASSERT_TRUE(cancelled && absl::IsCancelled(status)) << status;
      return forget_if_new();
    }
    const int count =
        std::min<int>(turn->max_tokens, kContext - static_cast<int>(turn->tokens.size()) + 1);
    const std::vector<TokenId> expected = engine_->ExpectedHere(turn->tokens, count);
    ASSERT_EQ(turn->transcript.tokens[0], expected) << turn->session;
    twin_[turn->session] = turn->tokens;
    twin_[turn->session].insert(twin_[turn->session].end(), expected.begin(), expected.end());
  }

  void DamageAFile() {
    engine_->spill->Flush();
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      if (entry.path().extension() != ".kvs") continue;
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(-1 - Random(200), std::ios::end);
      file.put(static_cast<char>(Random(256)));
      return;
    }
  }

  void CheckSums() {
    const EngineStats stats = engine_->core->stats();
    ASSERT_EQ(stats.kv_live_bytes + stats.kv_cached_bytes + stats.kv_free_bytes,
              stats.kv_capacity_bytes);
    double proportional = 0;
    int tokens_known = 0;
    std::map<SessionSnapshot::State, int64_t> states;
    for (const SessionSnapshot& session : engine_->core->ListSessions(std::nullopt)) {
      proportional += session.kv_bytes_proportional;
      ASSERT_TRUE(twin_.contains(session.id)) << session.id;
      ASSERT_EQ(session.tokens, static_cast<int>(twin_[session.id].size())) << session.id;
      ++tokens_known;
      ++states[session.state];
    }
    ASSERT_EQ(tokens_known, static_cast<int>(twin_.size()));
    using State = SessionSnapshot::State;
    ASSERT_EQ(stats.sessions_busy, states[State::kBusy]);
    ASSERT_EQ(stats.sessions_idle, states[State::kIdle]);
    ASSERT_EQ(stats.sessions_spilled, states[State::kSpilled]);
    ASSERT_EQ(stats.sessions_evicted, states[State::kEvicted]);
    ASSERT_EQ(stats.sessions_restoring, states[State::kRestoring]);
    ASSERT_NEAR(proportional, static_cast<double>(stats.kv_live_bytes), 1e-3);
  }

  std::filesystem::path directory_;
  std::unique_ptr<EngineFixture> engine_;
  std::map<std::string, std::vector<TokenId>> twin_;  // history of every session that exists
  std::mt19937 random_{5};
};
INSTANTIATE_TEST_SUITE_P(Schemes, SessionPropertyTest, ::testing::ValuesIn(testing::EveryScheme()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(SessionPropertyTest, RandomLifeEqualsTheTwin) {
  for (int operation = 0; operation < 10000; ++operation) {
    SCOPED_TRACE(operation);
    switch (Random(12)) {
      case 0: {
        const std::string from = Name(), to = Name();
        const bool possible = twin_.contains(from) && !twin_.contains(to);
        ASSERT_EQ(engine_->Fork("", from, to).ok(), possible);
        if (possible) twin_[to] = twin_[from];
        break;
      }
      case 1: {
        const std::string name = Name();
        ASSERT_EQ(engine_->core->DeleteSession("", name).ok(), twin_.erase(name) == 1);
        break;
      }
      case 2:  // somebody without a session takes most of the pool
        ASSERT_TRUE(engine_->Complete(engine_->Request(EngineFixture::Prompt(250, Random(50)), 20))
                        .finished->status.ok());
        break;
      case 3: {
        Turn turn = StartTurn(Name());
        for (int steps = Random(6); steps > 0; --steps) engine_->core->Step();
        turn.transcript.Drain(turn.stream.get());  // cancelling drops what waits
        turn.stream->Cancel();
        engine_->RunUntilIdle();
        EndTurn(&turn, /*cancelled=*/true);
        break;
      }
      case 4:
        if (Random(10) == 0) DamageAFile();
        break;
      case 5:
        if (Random(10) == 0) {
          engine_->core->Shutdown();  // spills what is in the pool; sessions whose K/V stand
                                      // nowhere are not kept
          for (const SessionSnapshot& session : engine_->core->ListSessions(std::nullopt)) {
            if (session.state != SessionSnapshot::State::kSpilled && session.spilled_bytes == 0)
              twin_.erase(session.id);
          }
          engine_.reset();
          Open();
          // A damaged header is found at once, and its session with it.
          for (auto session = twin_.begin(); session != twin_.end();) {
            const auto next = std::next(session);
            if (!engine_->core->GetSession("", session->first).ok()) twin_.erase(session);
            session = next;
          }
        }
        break;
      case 6:
        if (Random(20) == 0) {
          engine_->clock.Advance(absl::Hours(2));
          engine_->core->Step();
          twin_.clear();
        }
        break;
      default: {  // one to four sessions at once
        std::vector<Turn> turns;
        for (int i = Random(4); i >= 0; --i) {
          const std::string name = Name();
          const bool busy = std::any_of(turns.begin(), turns.end(),
                                        [&](const Turn& t) { return t.session == name; });
          if (!busy) turns.push_back(StartTurn(name));
        }
        engine_->RunUntilIdle();
        for (Turn& turn : turns) EndTurn(&turn, /*cancelled=*/false);
      }
    }
    if (HasFatalFailure()) return;
    CheckSums();
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace kvasir
