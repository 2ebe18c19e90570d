// Sessions: turns, rollback, pressure, spill to disk, restart. Contents checked through the dummy
// model.
#include <sys/mount.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::AllSchemes;
using testing::EngineFixture;
using testing::Scheme;
using testing::Transcript;

std::vector<TokenId> Join(std::vector<TokenId> a, const std::vector<TokenId>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

GenerationRequest Turn(EngineFixture* f, std::vector<TokenId> prompt, int max_tokens,
                       const std::string& session = "s") {
  GenerationRequest request = f->Request(std::move(prompt), max_tokens);
  request.session_id = session;
  return request;
}

class SessionTest : public ::testing::TestWithParam<Scheme> {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 ("kvasir_session_test_" + std::to_string(::getpid()) + "_" + GetParam().name);
    std::filesystem::remove_all(directory_);
  }
  void TearDown() override {
    umount2(directory_.c_str(), MNT_DETACH);  // what a test may have mounted there
    std::filesystem::remove_all(directory_);
  }

  std::filesystem::path directory_;
};
INSTANTIATE_TEST_SUITE_P(Schemes, SessionTest, ::testing::ValuesIn(AllSchemes()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(SessionTest, TheSecondTurnComputesOnlyWhatIsNew) {
  EngineFixture f(64, GetParam());
  f.config.prefix_cache = false;
  const auto first = EngineFixture::Prompt(50, 1), second = EngineFixture::Prompt(7, 2);
  const Transcript a = f.Complete(Turn(&f, first, 10));
  const auto history = Join(first, a.tokens[0]);
  EXPECT_EQ(a.tokens[0], EngineFixture::Expected(first, 10));

  const int64_t before = f.model->tokens_computed;
  const Transcript b = f.Complete(Turn(&f, second, 10));
  EXPECT_EQ(b.tokens[0], EngineFixture::Expected(Join(history, second), 10));
  EXPECT_EQ(b.accepted->prompt_tokens, 67);
  EXPECT_EQ(b.accepted->cached_tokens,
            59);  // all but the first turn's last token, which was never computed
  EXPECT_EQ(f.model->tokens_computed - before, 8 + 9);
}

TEST_P(SessionTest, FullHistoryReusesTheCommonBeginning) {
  EngineFixture f(64, GetParam());
  f.config.prefix_cache = false;
  const auto first = EngineFixture::Prompt(50, 1);
  const Transcript a = f.Complete(Turn(&f, first, 10));
  // The client edits the last answer from its fifth token on.
  auto edited = first;
  edited.insert(edited.end(), a.tokens[0].begin(), a.tokens[0].begin() + 4);
  edited = Join(edited, EngineFixture::Prompt(9, 5));
  GenerationRequest request = Turn(&f, edited, 6);
  request.session_full_history = true;
  const Transcript b = f.Complete(std::move(request));
  EXPECT_EQ(b.accepted->cached_tokens, 54);
  EXPECT_EQ(b.tokens[0], EngineFixture::Expected(edited, 6));
}

TEST_P(SessionTest, AutomaticBosIsDroppedInAContinuation) {
  EngineFixture f(64, GetParam());
  GenerationRequest a = Turn(&f, Join({0}, EngineFixture::Prompt(20, 1)), 4);
  a.automatic_prefix_tokens = 1;
  const Transcript first = f.Complete(std::move(a));
  GenerationRequest b = Turn(&f, Join({0}, EngineFixture::Prompt(5, 2)), 4);
  b.automatic_prefix_tokens = 1;
  const Transcript second = f.Complete(std::move(b));
  EXPECT_EQ(first.accepted->prompt_tokens, 21);
  EXPECT_EQ(second.accepted->prompt_tokens, 21 + 4 + 5);
}

TEST_P(SessionTest, ACancelledTurnLeavesTheSessionAsItWas) {
  EngineFixture f(64, GetParam());
  const auto first = EngineFixture::Prompt(30, 1), second = EngineFixture::Prompt(12, 2);
  const auto history = Join(first, f.Complete(Turn(&f, first, 5)).tokens[0]);
  auto stream = f.Submit(Turn(&f, EngineFixture::Prompt(60, 9), 50));
  for (int i = 0; i < 10; ++i) f.core->Step();
  Transcript refused;
  refused.Drain(f.Submit(Turn(&f, second, 5)).get());
  EXPECT_TRUE(absl::IsAborted(refused.finished->status));  // busy
  EXPECT_TRUE(absl::IsAborted(f.core->DeleteSession("", "s")));
  stream->Cancel();
  f.core->Step();
  const SessionSnapshot session = f.core->GetSession("", "s").value();
  EXPECT_EQ(session.tokens, static_cast<int>(history.size()));
  EXPECT_EQ(session.turns, 1);
  EXPECT_EQ(session.state, SessionSnapshot::State::kIdle);
  EXPECT_EQ(f.Complete(Turn(&f, second, 5)).tokens[0],
            EngineFixture::Expected(Join(history, second), 5));
}

TEST_P(SessionTest, PromptLogprobsCoverTheHistoryToo) {
  EngineFixture f(64, GetParam());
  const auto first = EngineFixture::Prompt(50, 1), second = EngineFixture::Prompt(7, 2);
  const auto history = Join(first, f.Complete(Turn(&f, first, 10)).tokens[0]);
  GenerationRequest request = Turn(&f, second, 5);
  request.prompt_logprobs = 0;
  const Transcript t = f.Complete(std::move(request));
  EXPECT_EQ(t.accepted->cached_tokens, 0);
  EXPECT_EQ(t.prompt_logprobs.size(), 66u);
  const auto expected = EngineFixture::Expected(Join(history, second), 5);
  EXPECT_EQ(t.tokens[0], expected);
  const auto third = EngineFixture::Prompt(4, 3);
  EXPECT_EQ(f.Complete(Turn(&f, third, 5)).tokens[0],
            EngineFixture::Expected(Join(Join(Join(history, second), expected), third), 5));
}

TEST_P(SessionTest, AFailedFirstTurnLeavesNoSession) {
  EngineFixture f(64, GetParam());
  auto stream = f.Submit(Turn(&f, EngineFixture::Prompt(60, 9), 50));
  f.core->Step();
  stream->Cancel();
  f.core->Step();
  EXPECT_TRUE(absl::IsNotFound(f.core->GetSession("", "s").status()));
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
}

TEST_P(SessionTest, AHistoryBeyondTheContextIsRefusedAndNothingIsLost) {
  EngineFixture f(64, GetParam());
  f.config.max_context_tokens = 100;
  const auto first = EngineFixture::Prompt(80, 1);
  const auto history = Join(first, f.Complete(Turn(&f, first, 5)).tokens[0]);
  const Transcript refused = f.Complete(Turn(&f, EngineFixture::Prompt(30, 2), 5));
  EXPECT_TRUE(absl::IsInvalidArgument(refused.finished->status));
  EXPECT_THAT(std::string(refused.finished->status.message()), ::testing::HasSubstr("115"));
  const auto more = EngineFixture::Prompt(3, 3);
  EXPECT_EQ(f.Complete(Turn(&f, more, 5)).tokens[0],
            EngineFixture::Expected(Join(history, more), 5));
}

TEST_P(SessionTest, ForkSharesBlocksAndDiverges) {
  EngineFixture f(64, GetParam());
  const auto first = EngineFixture::Prompt(40, 1);
  const auto history = Join(first, f.Complete(Turn(&f, first, 5)).tokens[0]);
  const int64_t live = f.core->stats().kv_live_bytes;
  const SessionSnapshot fork = f.Fork("", "s", "t").value();
  EXPECT_EQ(f.core->stats().kv_live_bytes, live);
  EXPECT_EQ(fork.kv_bytes_exclusive, 0);
  EXPECT_DOUBLE_EQ(fork.kv_bytes_proportional, static_cast<double>(live) / 2);
  EXPECT_TRUE(absl::IsAlreadyExists(f.Fork("", "s", "t").status()));
  EXPECT_TRUE(absl::IsNotFound(f.Fork("", "nobody", "u").status()));
  EXPECT_TRUE(absl::IsNotFound(f.Fork("other tenant", "s", "u").status()));
  const auto p = EngineFixture::Prompt(6, 2), q = EngineFixture::Prompt(6, 3);
  EXPECT_EQ(f.Complete(Turn(&f, p, 5, "s")).tokens[0],
            EngineFixture::Expected(Join(history, p), 5));
  EXPECT_EQ(f.Complete(Turn(&f, q, 5, "t")).tokens[0],
            EngineFixture::Expected(Join(history, q), 5));
  EXPECT_TRUE(f.core->DeleteSession("", "s").ok());
  EXPECT_TRUE(f.core->DeleteSession("", "t").ok());
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
}

// Ten sessions of 4 blocks in a pool of 12: most are pushed out, and all go on as if nothing had
// happened.
TEST_P(SessionTest, UnderPressureSessionsAreDroppedAndRecomputed) {
  EngineFixture f(12, GetParam());
  std::vector<std::vector<TokenId>> history(10);
  for (int turn = 0; turn < 3; ++turn) {
    for (int i = 0; i < 10; ++i) {
      const auto prompt = EngineFixture::Prompt(15, 10 * turn + i);
      const auto expected = EngineFixture::Expected(Join(history[i], prompt), 5);
      const Transcript t = f.Complete(Turn(&f, prompt, 5, "s" + std::to_string(i)));
      ASSERT_TRUE(t.finished->status.ok()) << t.finished->status;
      ASSERT_EQ(t.tokens[0], expected) << turn << " " << i;
      history[i] = Join(Join(history[i], prompt), expected);
    }
  }
  EXPECT_THAT(f.observer.session_evictions, ::testing::Contains("dropped"));
}

TEST_P(SessionTest, UnderPressureSessionsAreSpilledAndRestored) {
  EngineFixture f(12, GetParam());
  f.config.prefix_cache = false;  // so that cached tokens can only come from the disk
  f.OpenSpill(directory_);
  std::vector<std::vector<TokenId>> history(10);
  for (int turn = 0; turn < 3; ++turn) {
    for (int i = 0; i < 10; ++i) {
      const auto prompt = EngineFixture::Prompt(15, 10 * turn + i);
      const auto expected = EngineFixture::Expected(Join(history[i], prompt), 5);
      const Transcript t = f.Complete(Turn(&f, prompt, 5, "s" + std::to_string(i)));
      ASSERT_EQ(t.tokens[0], expected) << turn << " " << i;
      EXPECT_EQ(t.accepted->cached_tokens,
                std::max<int>(0, static_cast<int>(history[i].size()) - 1));
      history[i] = Join(Join(history[i], prompt), expected);
    }
  }
  EXPECT_THAT(f.observer.session_evictions, ::testing::Contains("spilled"));
  EXPECT_THAT(f.observer.session_evictions, ::testing::Not(::testing::Contains("spill_refused")));
}

TEST_P(SessionTest, SessionsAreFoundAgainAfterARestart) {
  const auto first = EngineFixture::Prompt(70, 1), second = EngineFixture::Prompt(8, 2);
  std::vector<TokenId> history;
  {
    EngineFixture f(64, GetParam());
    f.OpenSpill(directory_);
    history = Join(first, f.Complete(Turn(&f, first, 6)).tokens[0]);
    f.core->Shutdown();
  }
  EngineFixture f(64, GetParam());
  f.OpenSpill(directory_);
  f.Start();
  const SessionSnapshot found = f.core->GetSession("", "s").value();
  EXPECT_EQ(found.state, SessionSnapshot::State::kSpilled);
  EXPECT_EQ(found.tokens, static_cast<int>(history.size()));
  EXPECT_EQ(found.turns, 1);
  EXPECT_GT(found.spilled_bytes, 0);
  const Transcript t = f.Complete(Turn(&f, second, 6));
  EXPECT_EQ(t.accepted->cached_tokens, static_cast<int>(history.size()) - 1);
  EXPECT_EQ(t.tokens[0], EngineFixture::Expected(Join(history, second), 6));
}

TEST_P(SessionTest, ASaltHidesPromptsInPoolAndFile) {
  const auto prompt = EngineFixture::Prompt(50, 1), next = EngineFixture::Prompt(7, 2);
  const CacheSalt ours = {1, 2}, theirs = {1, 3};
  const auto cached = [](EngineFixture* f, GenerationRequest request, const CacheSalt& salt) {
    request.cache_salt = salt;
    return f->Complete(std::move(request)).accepted->cached_tokens;
  };
  {
    EngineFixture f(64, GetParam());
    f.OpenSpill(directory_);
    EXPECT_EQ(cached(&f, Turn(&f, prompt, 10), ours), 0);
    EXPECT_EQ(cached(&f, f.Request(prompt, 2), {}), 0);
    EXPECT_EQ(cached(&f, f.Request(prompt, 2), theirs), 0);
    EXPECT_GT(cached(&f, f.Request(prompt, 2), ours), 0);
    EXPECT_GT(cached(&f, f.Request(prompt, 2), {}), 0);  // its own, of two requests before
    f.core->Shutdown();
  }
  // The file remembers the salt: what it holds is not for those without.
  EngineFixture f(64, GetParam());
  f.OpenSpill(directory_);
  EXPECT_EQ(cached(&f, Turn(&f, next, 4), ours), 59);
  EXPECT_EQ(cached(&f, f.Request(prompt, 2), {}), 0);
  EXPECT_GT(cached(&f, f.Request(prompt, 2), ours), 0);
  // Nor does another salt's turn go on from its blocks.
  EXPECT_EQ(cached(&f, Turn(&f, next, 4), theirs), 0);
  EXPECT_GT(cached(&f, Turn(&f, next, 4), theirs), 59);
}

TEST_P(SessionTest, ADamagedFileFallsBackToRecompute) {
  const auto first = EngineFixture::Prompt(70, 1), second = EngineFixture::Prompt(8, 2);
  EngineFixture f(20, GetParam());
  f.config.prefix_cache = false;
  f.OpenSpill(directory_);
  const auto history = Join(first, f.Complete(Turn(&f, first, 6)).tokens[0]);
  f.Complete(f.Request(EngineFixture::Prompt(280, 3), 10));  // needs the whole pool
  ASSERT_EQ(f.core->GetSession("", "s").value().state, SessionSnapshot::State::kSpilled);
  f.spill->Flush();
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    if (entry.path().extension() != ".kvs") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-5, std::ios::end);
    file.put('\x5a');
  }
  const Transcript t = f.Complete(Turn(&f, second, 6));
  EXPECT_EQ(t.accepted->cached_tokens, 0);
  EXPECT_EQ(t.tokens[0], EngineFixture::Expected(Join(history, second), 6));
  EXPECT_EQ(f.observer.damaged.size(), 1u);
}

// While it lives no file grows beyond `bytes`: stands in for a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    former_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    EXPECT_EQ(getrlimit(RLIMIT_FSIZE, &former_), 0);
    const rlimit limited{.rlim_cur = bytes, .rlim_max = former_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &former_);
    std::signal(SIGXFSZ, former_handler_);
  }

 private:
  rlimit former_ = {};
  void (*former_handler_)(int) = nullptr;
};

TEST_P(SessionTest, ASpillThatFailsIsTold) {
  const auto first = EngineFixture::Prompt(70, 1), second = EngineFixture::Prompt(8, 2);
  EngineFixture f(20, GetParam());
  f.config.prefix_cache = false;
  f.OpenSpill(directory_);
  const auto history = Join(first, f.Complete(Turn(&f, first, 6)).tokens[0]);
  {
    FileSizeLimit full(100);
    f.Complete(f.Request(EngineFixture::Prompt(280, 3), 10));  // needs the whole pool
    f.spill->Flush();
  }
  f.core->Step();
  const SessionSnapshot session = f.core->GetSession("", "s").value();
  EXPECT_EQ(session.state, SessionSnapshot::State::kEvicted);
  EXPECT_EQ(session.spilled_bytes, 0);
  EXPECT_EQ(f.core->stats().sessions_spilled, 0);
  EXPECT_EQ(f.core->stats().sessions_evicted, 1);
  EXPECT_THAT(f.observer.damaged,
              ::testing::ElementsAre(::testing::AllOf(::testing::HasSubstr("session \"s\""),
                                                      ::testing::HasSubstr("File too large"))));
  const Transcript t = f.Complete(Turn(&f, second, 6));
  EXPECT_EQ(t.accepted->cached_tokens, 0);
  EXPECT_EQ(t.tokens[0], EngineFixture::Expected(Join(history, second), 6));
  EXPECT_EQ(f.observer.damaged.size(), 1u);
}

TEST_P(SessionTest, TheEndTellsEverySessionThatItCannotKeep) {
  EngineFixture f(64, GetParam());
  f.OpenSpill(directory_);
  for (const char* id : {"a", "b", "c"}) {
    f.Complete(Turn(&f, EngineFixture::Prompt(30, 1), 4, id));
  }
  FileSizeLimit full(100);
  f.core->Shutdown();
  EXPECT_EQ(f.observer.damaged.size(), 3u);
  EXPECT_EQ(f.core->stats().sessions_spilled, 0);
  EXPECT_EQ(f.spill->stats().files, 0);
}

// As many as fit are kept, the others are told, and the account is what stands on the disk.
TEST_P(SessionTest, AFullFileSystemKeepsWhatFits) {
  std::filesystem::create_directories(directory_);
  if (mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "cannot mount a tmpfs here: " << std::strerror(errno);
  }
  const std::string id_prefix = "s";
  size_t lost = 0;
  int64_t kept = 0;
  {
    EngineFixture f(64, GetParam());
    f.OpenSpill(directory_ / "spill");
    for (int i = 0; i < 8; ++i) {
      f.Complete(Turn(&f, EngineFixture::Prompt(60, i), 4, id_prefix + std::to_string(i)));
    }
    f.core->Shutdown();
    lost = f.observer.damaged.size();
    kept = f.spill->stats().files;
  }
  EXPECT_EQ(static_cast<int64_t>(lost) + kept, 8);
  EngineFixture f(64, GetParam());
  f.OpenSpill(directory_ / "spill");
  f.Start();
  EXPECT_EQ(f.core->stats().sessions_spilled, kept);
  EXPECT_TRUE(f.observer.damaged.empty());
}

TEST_P(SessionTest, AFileThatVanishesIsTold) {
  const auto first = EngineFixture::Prompt(70, 1), second = EngineFixture::Prompt(8, 2);
  EngineFixture f(20, GetParam());
  f.config.prefix_cache = false;
  f.OpenSpill(directory_);
  const auto history = Join(first, f.Complete(Turn(&f, first, 6)).tokens[0]);
  f.Complete(f.Request(EngineFixture::Prompt(280, 3), 10));
  f.spill->Flush();
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    std::filesystem::remove(entry.path());
  }
  const Transcript t = f.Complete(Turn(&f, second, 6));
  EXPECT_EQ(t.accepted->cached_tokens, 0);
  EXPECT_EQ(t.tokens[0], EngineFixture::Expected(Join(history, second), 6));
  EXPECT_EQ(f.observer.damaged.size(), 1u);
  EXPECT_EQ(f.spill->stats().bytes, 0);
}

// A file that cannot be read for a moment is lost to this turn only: disk and account agree.
TEST_P(SessionTest, AFileThatCannotBeReadStays) {
  const auto first = EngineFixture::Prompt(70, 1), second = EngineFixture::Prompt(8, 2);
  EngineFixture f(20, GetParam());
  f.config.prefix_cache = false;
  f.OpenSpill(directory_);
  const auto history = Join(first, f.Complete(Turn(&f, first, 6)).tokens[0]);
  f.Complete(f.Request(EngineFixture::Prompt(280, 3), 10));
  f.spill->Flush();
  // O_NOFOLLOW: opening it fails with ELOOP.
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    const std::filesystem::path path = entry.path();
    std::filesystem::rename(path, path.string() + ".away");
    std::filesystem::create_symlink(path.string() + ".away", path);
    break;
  }
  const Transcript t = f.Complete(Turn(&f, second, 6));
  EXPECT_EQ(t.tokens[0], EngineFixture::Expected(Join(history, second), 6));
  EXPECT_EQ(f.observer.damaged.size(), 1u);
  EXPECT_EQ(f.spill->stats().files, 0) << "the turn's end removes what it replaces";
}

// A file that the start could not read is an old state: the next one would find it, as if its
// client had not gone on since.
TEST_P(SessionTest, AnUnreadableFileGoesWhenItsNameGoesOn) {
  std::filesystem::create_directories(directory_);
  const std::filesystem::path path = directory_ / SpillFileName(SpillIdOf("", "s"));
  for (const std::string how : {"turn", "fork", "deletion"}) {
    std::filesystem::remove(path);
    std::filesystem::create_symlink("elsewhere", path);  // O_NOFOLLOW: ELOOP
    EngineFixture f(64, GetParam());
    f.OpenSpill(directory_);
    f.Complete(Turn(&f, EngineFixture::Prompt(20, 1), 5, how == "turn" ? "s" : "other"));
    if (how == "fork") {
      EXPECT_TRUE(f.Fork("", "other", "s").ok());
    }
    if (how == "deletion") {
      EXPECT_TRUE(f.core->DeleteSession("", "s").ok());
      EXPECT_TRUE(absl::IsNotFound(f.core->DeleteSession("", "s")));
    }
    EXPECT_FALSE(std::filesystem::is_symlink(path)) << how;
    EXPECT_EQ(f.observer.damaged.size(), 1u) << how;
  }
}

TEST_P(SessionTest, IdleSessionsExpire) {
  EngineFixture f(64, GetParam());
  f.config.session_ttl = absl::Minutes(10);
  f.Complete(Turn(&f, EngineFixture::Prompt(20, 1), 5));
  EXPECT_LE(f.core->next_timer(), f.clock.Now() + absl::Minutes(10));
  f.clock.Advance(absl::Minutes(11));
  f.core->Step();
  EXPECT_TRUE(absl::IsNotFound(f.core->GetSession("", "s").status()));
  EXPECT_EQ(f.core->stats().kv_live_bytes, 0);
}

TEST_P(SessionTest, SessionsAndTheirIdleBytesAreBounded) {
  EngineFixture f(64, GetParam());
  f.config.max_sessions = 4;
  f.config.max_idle_session_bytes = 5 * static_cast<int64_t>(f.kv->layout().block_bytes());
  for (int i = 0; i < 8; ++i) {
    f.Complete(
        Turn(&f, EngineFixture::Prompt(30, i), 3, "s" + std::to_string(i)));  // two blocks each
    EXPECT_LE(f.core->ListSessions(std::nullopt).size(), 4u);
    EXPECT_LE(f.core->stats().kv_live_bytes, f.config.max_idle_session_bytes);
  }
  EXPECT_TRUE(absl::IsNotFound(f.core->GetSession("", "s0").status()));
  EXPECT_TRUE(f.core->GetSession("", "s7").ok());
  // Turns that are cancelled too.
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 4; i < 8; ++i)
    streams.push_back(f.Submit(Turn(&f, EngineFixture::Prompt(8, i), 50, "s" + std::to_string(i))));
  for (int i = 0; i < 10; ++i) f.core->Step();
  for (const auto& stream : streams) stream->Cancel();
  f.RunUntilIdle();
  EXPECT_LE(f.core->stats().kv_live_bytes, f.config.max_idle_session_bytes);
}

TEST_P(SessionTest, PreemptedTurnsGoOnUnchanged) {
  EngineFixture f(16, GetParam());
  f.OpenSpill(directory_);
  std::vector<std::vector<TokenId>> history(4);
  for (int turn = 0; turn < 3; ++turn) {
    std::vector<std::shared_ptr<TokenStream>> streams;
    std::vector<std::vector<TokenId>> prompts;
    for (int i = 0; i < 4; ++i) {
      prompts.push_back(EngineFixture::Prompt(10, 7 * turn + i));
      streams.push_back(f.Submit(Turn(&f, prompts[i], 70, "s" + std::to_string(i))));
    }
    f.RunUntilIdle();
    for (int i = 0; i < 4; ++i) {
      Transcript t;
      t.Drain(streams[i].get());
      ASSERT_TRUE(t.finished.has_value() && t.finished->status.ok());
      ASSERT_EQ(t.tokens[0], EngineFixture::Expected(Join(history[i], prompts[i]), 70));
      history[i] = Join(Join(history[i], prompts[i]), t.tokens[0]);
    }
  }
  EXPECT_FALSE(f.observer.preempted.empty());
}

}  // namespace
}  // namespace kvasir
