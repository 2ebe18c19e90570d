// Prompts whose beginning left the pool for the disk and comes back: the tokens are those of an
// undisturbed run, for every kind of sharing and of layers that forget, after a restart too; the
// account is exact at each moment; nobody waits for the disk but who wants what is on it.
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <random>
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

class PrefixRestoreTest : public ::testing::TestWithParam<Scheme> {
 protected:
  static constexpr int kBlocks = 24;
  static constexpr int kPromptTokens = 100;  // 6 blocks and a rest; snapshots every 32

  void SetUp() override { Restart(); }
  void TearDown() override { reader_.Open(); }

  void Restart(int64_t max_bytes = 64 << 20) {
    reader_.Open();
    f_.reset();
    f_ = std::make_unique<EngineFixture>(
        kBlocks, GetParam(),
        PrefixSpillConfig{.spill_directory = folder_.path().string(),
                          .max_bytes = max_bytes,
                          .model_fingerprint = "dummy",
                          .read = reader_.Function()});
    f_->Start();
  }

  static std::vector<TokenId> PromptOf(int number) {
    return EngineFixture::Prompt(kPromptTokens, number + 1);
  }
  GenerationRequest Ask(int number, const std::string& tenant = "") {
    GenerationRequest request = f_->Request(PromptOf(number), 6);
    request.tenant = tenant;
    return request;
  }
  // Returns cached tokens.
  int Expect(int number, TokenStream* stream) {
    Transcript t;
    t.Drain(stream);
    EXPECT_TRUE(t.finished.has_value() && t.finished->status.ok());
    if (!t.accepted.has_value() || t.tokens.empty()) return -1;
    EXPECT_EQ(t.tokens[0], f_->ExpectedHere(PromptOf(number), 6)) << number;
    return t.accepted->cached_tokens;
  }
  int Run(int number, const std::string& tenant = "") {
    auto stream = f_->Submit(Ask(number, tenant));
    f_->RunUntilIdle();
    ExpectExactAccounts();
    return Expect(number, stream.get());
  }
  // Everything cached goes to disk, as if others had needed the pool.
  void Evict() {
    f_->kv->EvictCache(int64_t{1} << 40);
    f_->prefix_spill->Flush();
    ASSERT_EQ(f_->core->stats().kv_cached_bytes, 0);
  }

  void ExpectExactAccounts() {
    double listed = 0;
    for (const SessionSnapshot& s : f_->core->ListSessions(std::nullopt))
      listed += s.kv_bytes_proportional;
    for (const RequestSnapshot& r : f_->core->ListRequests(std::nullopt))
      listed += r.kv_bytes_proportional;
    const EngineStats stats = f_->core->stats();
    EXPECT_NEAR(listed, static_cast<double>(stats.kv_live_bytes), 1e-3);
    EXPECT_EQ(stats.kv_live_bytes + stats.kv_cached_bytes + stats.kv_free_bytes,
              stats.kv_capacity_bytes);
  }
  int64_t Reads() { return f_->prefix_spill->stats().read_total; }

  TemporaryDirectory folder_;
  GatedReader reader_;
  std::unique_ptr<EngineFixture> f_;
};
INSTANTIATE_TEST_SUITE_P(Schemes, PrefixRestoreTest, ::testing::ValuesIn(EveryScheme()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(PrefixRestoreTest, AHitFromDiskIsWhatIsComputed) {
  EXPECT_EQ(Run(0), 0);
  const int in_pool = Run(0);
  EXPECT_GE(in_pool, 64);
  Evict();
  EXPECT_EQ(Run(0), in_pool);
  EXPECT_GT(Reads(), 0);
  EXPECT_TRUE(f_->observer.prefix_faults.empty());
}

TEST_P(PrefixRestoreTest, AfterARestartToo) {
  Run(0);
  const int in_pool = Run(0);
  Restart();  // the end writes what is cached
  EXPECT_EQ(Run(0), in_pool);
  EXPECT_GT(Reads(), 0);
  EXPECT_EQ(Run(1), 0);
}

// More prompts than the pool holds, again and again, with restarts: everyone's tokens are right.
TEST_P(PrefixRestoreTest, PromptsThatPushEachOtherOut) {
  constexpr int kPrompts = 8;
  std::mt19937 random(3);
  int64_t cached = 0;
  for (int step = 0; step < 60; ++step) {
    cached += Run(static_cast<int>(random() % kPrompts));
    if (step % 20 == 10) Restart();
  }
  EXPECT_GT(cached, 60 * 32) << "most are found";
  EXPECT_GT(Reads(), 0);
}

TEST_P(PrefixRestoreTest, OneTenantsBlocksAreNotAnothers) {
  Run(0, "a");
  const int in_pool = Run(0, "a");
  Restart();
  EXPECT_EQ(Run(0, "b"), 0);
  GenerationRequest salted = Ask(0, "a");
  salted.cache_salt = {1, 2};
  auto stream = f_->Submit(std::move(salted));
  f_->RunUntilIdle();
  EXPECT_EQ(Expect(0, stream.get()), 0);
  EXPECT_EQ(Run(0, "a"), in_pool);
}

TEST_P(PrefixRestoreTest, OthersStepWhileAReadStandsStill) {
  Run(0);
  const int in_pool = Run(0);
  Evict();
  reader_.Close();
  auto waiting = f_->Submit(Ask(0));
  f_->core->Step();
  reader_.AwaitReader();
  ExpectExactAccounts();
  const std::vector<RequestSnapshot> requests = f_->core->ListRequests(std::nullopt);
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_STREQ(requests[0].state, "restoring");
  EXPECT_GT(requests[0].kv_bytes_physical, 0);

  auto same = f_->Submit(Ask(0));  // wants the same blocks: it waits for them
  auto other = f_->Submit(Ask(1));
  while (f_->core->Step()) f_->clock.Advance(absl::Milliseconds(1));
  EXPECT_EQ(Expect(1, other.get()), 0);
  ExpectExactAccounts();
  const int64_t stuck = Reads();
  reader_.Open();
  f_->RunUntilIdle();
  EXPECT_EQ(Expect(0, waiting.get()), in_pool);
  const int64_t blocks = Reads() - stuck;
  EXPECT_EQ(Expect(0, same.get()), in_pool);
  EXPECT_EQ(Reads() - stuck, blocks);
  EXPECT_LE(blocks, 6 * f_->kv->layout().num_groups());
  ExpectExactAccounts();
}

TEST_P(PrefixRestoreTest, ACancelledRequestGivesItsBlocksBackWhenTheReadLetsGo) {
  Run(0);
  const int in_pool = Run(0);
  Evict();
  reader_.Close();
  auto stream = f_->Submit(Ask(0));
  f_->core->Step();
  reader_.AwaitReader();
  stream->Cancel();
  f_->core->Step();
  Transcript t;
  t.Drain(stream.get());
  ASSERT_TRUE(t.finished.has_value());
  EXPECT_TRUE(absl::IsCancelled(t.finished->status));
  EXPECT_GT(f_->core->stats().kv_live_bytes, 0) << "the read still fills them";
  auto again = f_->Submit(Ask(0));
  f_->core->Step();
  reader_.Open();
  f_->RunUntilIdle();
  EXPECT_EQ(Expect(0, again.get()), in_pool);
  EXPECT_EQ(f_->core->stats().kv_live_bytes, 0);
  EXPECT_TRUE(f_->observer.prefix_faults.empty());
  ExpectExactAccounts();
}

TEST_P(PrefixRestoreTest, ShutdownWhileRestoring) {
  Run(0);
  Evict();
  reader_.Close();
  auto stream = f_->Submit(Ask(0));
  f_->core->Step();
  reader_.AwaitReader();
  std::thread disk([&] { reader_.Open(); });
  f_->core->Shutdown();
  disk.join();
  Transcript t;
  t.Drain(stream.get());
  ASSERT_TRUE(t.finished.has_value());
  EXPECT_TRUE(absl::IsCancelled(t.finished->status));
  EXPECT_EQ(f_->core->stats().kv_live_bytes, 0);
  EXPECT_EQ(f_->core->stats().kv_cached_bytes, 0);
}

TEST_P(PrefixRestoreTest, AReadThatFailsIsToldAndTheRestIsComputed) {
  Run(0);
  Evict();
  reader_.error = EIO;
  EXPECT_EQ(Run(0), 0);
  reader_.error = 0;
  EXPECT_THAT(f_->observer.prefix_faults,
              ::testing::Contains(::testing::HasSubstr("Input/output")));
  EXPECT_EQ(static_cast<int64_t>(f_->observer.prefix_faults.size()),
            f_->prefix_spill->stats().failed_total);
}

// The block in the middle is damaged: what is before it is used, where layers do not forget.
TEST_P(PrefixRestoreTest, DamageCostsWhatIsBehindIt) {
  Run(0);
  const int in_pool = Run(0);
  Evict();
  int damaged = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path())) {
    if (entry.path().extension() != ".kvp" || ++damaged % 2 == 0) continue;
    std::filesystem::resize_file(entry.path(), std::filesystem::file_size(entry.path()) - 1);
  }
  ASSERT_GT(damaged, 1);
  EXPECT_LT(Run(0), in_pool);
  EXPECT_FALSE(f_->observer.prefix_faults.empty());
  Evict();
  EXPECT_GE(Run(0), 0);
}

// Everything at once beside each other, the disk answering now and then.
TEST_P(PrefixRestoreTest, UnderPressureNoTokenChanges) {
  std::mt19937 random(9);
  for (int round = 0; round < 12; ++round) {
    std::vector<std::pair<int, std::shared_ptr<TokenStream>>> streams;
    if (round % 3 == 1) reader_.Close();
    for (int i = 0; i < 6; ++i) {
      const int number = static_cast<int>(random() % 7);
      streams.emplace_back(number, f_->Submit(Ask(number)));
      f_->core->Step();
      f_->clock.Advance(absl::Milliseconds(1));
      ExpectExactAccounts();
    }
    if (round % 4 == 0) streams[random() % streams.size()].second->Cancel();
    reader_.Open();
    f_->RunUntilIdle();
    for (auto& [number, stream] : streams) {
      if (stream->cancelled()) continue;
      Expect(number, stream.get());
    }
    EXPECT_EQ(f_->core->stats().kv_live_bytes, 0);
  }
  EXPECT_GT(Reads(), 0);
  EXPECT_TRUE(f_->observer.prefix_faults.empty());
}

TEST_P(PrefixRestoreTest, TheDiskIsBoundedToo) {
  const int64_t limit = 6 * static_cast<int64_t>(f_->kv->layout().block_bytes());
  Restart(limit);
  for (int i = 0; i < 20; ++i) {
    Run(i % 5);
    f_->prefix_spill->Flush();
    ASSERT_LE(f_->prefix_spill->stats().bytes, limit);
  }
  EXPECT_GT(f_->prefix_spill->stats().pushed_out_total, 0);
}

}  // namespace
}  // namespace kvasir
