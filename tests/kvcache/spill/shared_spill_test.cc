// Two KvSpills in one directory stand for two replicas: claims are taken by open file descriptions,
// so they part here as they do between processes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "kvcache/spill/kv_spill.h"
#include "tests/kvcache/spill/kv_spill_fixture.h"

namespace kvasir {
namespace {

using Kind = ClaimedState::Kind;
using ::testing::HasSubstr;

class SharedSpillTest : public ::testing::Test {
 protected:
  struct Replica {
    std::unique_ptr<KvSpill> spill;

    // A turn that ends with the state `seed` in memory and, if `written`, on the disk.
    void Turn(const std::string& id, int seed, bool written = true) {
      auto claim = spill->Claim(id);
      ASSERT_TRUE(claim.ok()) << claim.status();
      spill->TakeNote(id, claim->get());
      spill->Supersede(id);
      if (!written) return;
      ASSERT_TRUE(spill->SpillAsync(id, "meta", testing::Tokens(5, seed),
                                    testing::Payload(300, static_cast<uint64_t>(seed))));
      spill->Flush();
    }
    // What a claim finds now; it is given back.
    absl::StatusOr<ClaimedState> Found(const std::string& id) {
      auto claim = spill->Claim(id);
      if (!claim.ok()) return claim.status();
      const ClaimedState* const state = (*claim)->state();
      return state == nullptr ? ClaimedState{.kind = Kind::kUnchanged} : *state;
    }
    Kind KindOf(const std::string& id) {
      const auto found = Found(id);
      EXPECT_TRUE(found.ok()) << found.status();
      return found.ok() ? found->kind : Kind::kNothing;
    }
  };

  Replica Start(int64_t max_bytes = 1 << 20, absl::Duration max_age = absl::InfiniteDuration(),
                const std::string& weights = "weights A") {
    auto spill = KvSpill::Open({.directory = directory_.path().string(),
                                .max_directory_bytes = max_bytes,
                                .layout_fingerprint = 77,
                                .model_fingerprint = weights,
                                .shared = true,
                                .max_age = max_age});
    EXPECT_TRUE(spill.ok()) << spill.status();
    return {*std::move(spill)};
  }

  // Of spill files, wherever in the directory.
  int64_t BytesOnDisk() const {
    int64_t bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path()))
      if (entry.path().extension() == ".kvs") bytes += static_cast<int64_t>(entry.file_size());
    return bytes;
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(SharedSpillTest, ASessionGoesFromOneToTheOther) {
  Replica a = Start(), b = Start();
  EXPECT_EQ(a.KindOf("s"), Kind::kNothing);
  a.Turn("s", 1);
  EXPECT_EQ(a.KindOf("s"), Kind::kUnchanged);
  const auto found = b.Found("s");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->kind, Kind::kFile);
  EXPECT_EQ(found->header.tokens, testing::Tokens(5, 1));
  // It was not taken note of, so the next claim finds it again.
  EXPECT_EQ(b.KindOf("s"), Kind::kFile);
  b.Turn("s", 2);
  // Going on with the copy in memory would lose that turn.
  EXPECT_EQ(a.KindOf("s"), Kind::kFile);
  EXPECT_EQ(a.Found("s")->header.tokens, testing::Tokens(5, 2));
  EXPECT_EQ(a.spill->stats().bytes, BytesOnDisk());
}

TEST_F(SharedSpillTest, OneAtATime) {
  Replica a = Start(), b = Start();
  auto claim = a.spill->Claim("s");
  ASSERT_TRUE(claim.ok());
  EXPECT_EQ(b.Found("s").status().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(b.Found("other").ok());
  EXPECT_TRUE(a.Found("s").ok());  // within a process sessions know who is busy
  EXPECT_EQ(b.Found("s").status().code(), absl::StatusCode::kAborted);
  claim->reset();
  EXPECT_TRUE(b.Found("s").ok());
}

TEST_F(SharedSpillTest, NobodyGetsWhatIsNewerInMemory) {
  Replica a = Start(), b = Start();
  a.Turn("s", 1);
  a.Turn("s", 2, /*written=*/false);
  EXPECT_EQ(b.Found("s").status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(b.Found("s").status().message()), HasSubstr("another replica"));
  a.spill.reset();  // as if it was killed: the kernel gives the lock back
  EXPECT_EQ(b.KindOf("s"), Kind::kLost);
  EXPECT_EQ(b.KindOf("s"), Kind::kLost);
  b.Turn("s", 3);
  EXPECT_EQ(b.KindOf("s"), Kind::kUnchanged);
}

TEST_F(SharedSpillTest, AFirstTurnThatIsLostIsTold) {
  Replica a = Start(), b = Start();
  a.Turn("s", 1, /*written=*/false);
  a.spill.reset();
  EXPECT_EQ(b.KindOf("s"), Kind::kLost);
  EXPECT_EQ(b.KindOf("t"), Kind::kNothing);
}

TEST_F(SharedSpillTest, RemovedIsGoneForAll) {
  Replica a = Start(), b = Start();
  a.Turn("s", 1);
  auto claim = b.spill->Claim("s");
  ASSERT_TRUE(claim.ok());
  b.spill->TakeNote("s", claim->get());
  EXPECT_TRUE(b.spill->Remove("s"));
  claim->reset();
  EXPECT_EQ(a.KindOf("s"), Kind::kNothing);
  EXPECT_EQ(BytesOnDisk(), 0);
  // Under the same name a new life, which may have come as far.
  b.Turn("s", 1);
  a.spill->Forget("s");
  EXPECT_EQ(a.KindOf("s"), Kind::kFile);
}

TEST_F(SharedSpillTest, ADamagedFileIsALoss) {
  Replica a = Start(), b = Start();
  a.Turn("s", 1);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path()))
    if (entry.path().extension() == ".kvs") std::filesystem::resize_file(entry.path(), 70);
  EXPECT_EQ(b.KindOf("s"), Kind::kLost);
  EXPECT_EQ(a.KindOf("s"), Kind::kLost);
}

TEST_F(SharedSpillTest, TheLimitIsThatOfAllTogether) {
  const int64_t limit = 3 * 500;  // of files of some 450 bytes
  Replica a = Start(limit), b = Start(limit);
  a.Turn("a1", 1);
  a.Turn("a2", 2);
  b.Turn("b1", 3);
  b.Turn("b2", 4);
  a.Turn("a3", 5);
  EXPECT_LE(BytesOnDisk(), limit);
  EXPECT_GT(BytesOnDisk(), 0);
  // Who has it in memory goes on; others learn that it is gone, and do not begin anew in silence.
  EXPECT_EQ(a.KindOf("a1"), Kind::kPushedOut);
  EXPECT_EQ(b.KindOf("a1"), Kind::kLost);
  EXPECT_EQ(b.KindOf("b2"), Kind::kUnchanged);
}

TEST_F(SharedSpillTest, ASessionInATurnIsNotPushedOut) {
  const int64_t limit = 500;
  Replica a = Start(limit), b = Start(limit);
  a.Turn("s", 1);
  auto turn = a.spill->Claim("s");
  ASSERT_TRUE(turn.ok());
  b.Turn("t", 2);  // has no room
  EXPECT_EQ(b.spill->stats().dropped_total, 1);
  turn->reset();
  EXPECT_EQ(a.KindOf("s"), Kind::kUnchanged);
  EXPECT_EQ(a.Found("t").status().code(), absl::StatusCode::kAborted);  // b still has it
}

TEST_F(SharedSpillTest, TooOldGoesWithoutATrace) {
  {
    Replica a = Start();
    a.Turn("s", 1);
    a.Turn("t", 2, /*written=*/false);
  }
  Replica b = Start(1 << 20, absl::ZeroDuration());
  EXPECT_EQ(b.KindOf("s"), Kind::kNothing);
  EXPECT_EQ(b.KindOf("t"), Kind::kNothing);
  EXPECT_EQ(BytesOnDisk(), 0);
  EXPECT_EQ(b.spill->stats().bytes, 0);
}

// A stamp tells what another day's clock said, not how old a file is.
TEST_F(SharedSpillTest, AClockThatWasSetMakesNothingOld) {
  const auto day = std::chrono::hours(24);
  for (const auto shift : {-2 * day, 2 * day}) {
    {
      Replica a = Start();
      a.Turn("s", 1);
      a.Turn("t", 2, /*written=*/false);
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path())) {
      if (entry.is_regular_file())
        std::filesystem::last_write_time(entry.path(), entry.last_write_time() + shift);
    }
    Replica b = Start(1 << 20, absl::Hours(1));
    EXPECT_EQ(b.KindOf("s"), Kind::kFile);
    EXPECT_EQ(b.KindOf("t"), Kind::kLost);
    b.Turn("u", 3);  // looks through the folder first
    EXPECT_EQ(b.KindOf("s"), Kind::kFile);
    EXPECT_EQ(b.KindOf("t"), Kind::kLost);
  }
}

TEST_F(SharedSpillTest, OtherWeightsHaveAFolderOfTheirOwn) {
  Replica a = Start();
  a.Turn("s", 1);
  Replica other = Start(1 << 20, absl::InfiniteDuration(), "weights B");
  EXPECT_EQ(other.KindOf("s"), Kind::kNothing);
  EXPECT_EQ(a.KindOf("s"), Kind::kUnchanged);
}

TEST_F(SharedSpillTest, AloneAndSharedExcludeEachOther) {
  Replica a = Start();
  const std::string path = directory_.path().string();
  EXPECT_EQ(KvSpill::CheckDirectory(path, false).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(KvSpill::CheckDirectory(path, true).ok());
}

}  // namespace
}  // namespace kvasir
