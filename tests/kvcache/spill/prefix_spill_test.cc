// Prefix blocks on disk: what is written comes back, also to another process and to a replica that
// shares the folder; what is not as it should be is refused, removed and counted; what the folder
// holds is what the account says, and the least recently used make room.
#include "kvcache/spill/prefix_spill.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <list>
#include <map>
#include <random>
#include <thread>

#include "tests/kvcache/temporary_directory.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

constexpr size_t kContentBytes = 300;

BlockDigest DigestOf(uint64_t number) { return {.words = {number * 0x9e3779b97f4a7c15u, number}}; }

std::vector<uint8_t> ContentOf(uint64_t number, size_t bytes = kContentBytes) {
  std::mt19937_64 random(number);
  std::vector<uint8_t> content(bytes);
  for (uint8_t& byte : content) byte = static_cast<uint8_t>(random());
  return content;
}

std::vector<int32_t> TokensOf(uint64_t number) {
  std::vector<int32_t> tokens(16);
  for (int i = 0; i < 16; ++i) tokens[i] = static_cast<int32_t>(number * 16) + i;
  return tokens;
}

class PrefixSpillTest : public ::testing::Test {
 protected:
  PrefixSpillConfig Config() {
    return {.spill_directory = directory_.path().string(),
            .max_bytes = 1 << 20,
            .layout_fingerprint = 77,
            .model_fingerprint = "weights A",
            .pause = std::chrono::hours(1)};
  }
  void SetUp() override { Open(Config()); }
  void Open(PrefixSpillConfig config) {
    spill_.reset();
    auto spill = PrefixSpill::Open(std::move(config));
    ASSERT_TRUE(spill.ok()) << spill.status();
    spill_ = *std::move(spill);
  }

  static void Take(PrefixSpill* spill, uint64_t number, int group = 0) {
    spill->Take(group, DigestOf(number), DigestOf(number + 1000), TokensOf(number),
                ContentOf(number));
  }
  static absl::Status Read(PrefixSpill* spill, uint64_t number, int group = 0) {
    std::vector<uint8_t> content(kContentBytes);
    const absl::Status status = spill->Read(group, DigestOf(number), DigestOf(number + 1000),
                                            TokensOf(number), absl::MakeSpan(content));
    if (status.ok()) EXPECT_EQ(content, ContentOf(number));
    return status;
  }
  void Take(uint64_t number) { Take(spill_.get(), number); }
  absl::Status Read(uint64_t number) { return Read(spill_.get(), number); }
  bool Has(uint64_t number) { return spill_->Has(0, DigestOf(number)); }

  std::vector<fs::path> Files(const std::string& extension = ".kvp") {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(directory_.path())) {
      if (entry.path().extension() == extension) files.push_back(entry.path());
    }
    return files;
  }
  fs::path PathOf(uint64_t number) {
    for (const fs::path& path : Files()) {
      if (path.filename() == StoredBlockFileName({0, DigestOf(number)})) return path;
    }
    ADD_FAILURE() << "no file of " << number;
    return {};
  }
  void ExpectExactAccount() {
    int64_t bytes = 0;
    for (const fs::path& path : Files()) bytes += static_cast<int64_t>(fs::file_size(path));
    EXPECT_EQ(spill_->stats().bytes, bytes);
    EXPECT_EQ(spill_->stats().files, static_cast<int64_t>(Files().size()));
    EXPECT_TRUE(Files(".tmp").empty());
  }

  TemporaryDirectory directory_;
  std::unique_ptr<PrefixSpill> spill_;
};

TEST_F(PrefixSpillTest, ABlockComesBackFromTheQueueFromDiskAndAfterARestart) {
  Take(1);
  Take(spill_.get(), 1, 2);  // of another group: another block
  EXPECT_TRUE(Has(1));
  EXPECT_FALSE(Has(2));
  EXPECT_TRUE(Read(1).ok());
  spill_->Flush();
  EXPECT_TRUE(Read(1).ok());
  ExpectExactAccount();
  EXPECT_EQ(Files().size(), 2u);
  Take(1);  // known
  spill_->Flush();
  EXPECT_EQ(spill_->stats().written_total, 2);
  Open(Config());
  EXPECT_TRUE(Has(1));
  EXPECT_TRUE(Read(1).ok());
  EXPECT_TRUE(Read(spill_.get(), 1, 2).ok());
  EXPECT_TRUE(absl::IsNotFound(Read(2)));
  ExpectExactAccount();
  EXPECT_EQ(spill_->stats().failed_total, 0);
}

TEST_F(PrefixSpillTest, NamesAreTheSameAfterARestartAndOthersKeysAreNot) {
  const auto key = spill_->hash_key();
  Open(Config());
  EXPECT_EQ(spill_->hash_key(), key);
  TemporaryDirectory elsewhere;
  PrefixSpillConfig config = Config();
  config.spill_directory = elsewhere.path().string();
  EXPECT_NE(PrefixSpill::Open(config).value()->hash_key(), key);
}

TEST_F(PrefixSpillTest, AKeyThatIsCutOffIsMadeAnew) {
  const auto key = spill_->hash_key();
  spill_.reset();
  int keys = 0;
  for (const fs::path& path : Files("")) {
    if (path.filename() != "key") continue;
    fs::resize_file(path, 7);
    ++keys;
  }
  ASSERT_EQ(keys, 1);
  Open(Config());
  EXPECT_NE(spill_->hash_key(), key);
  const auto second = spill_->hash_key();
  Open(Config());
  EXPECT_EQ(spill_->hash_key(), second);
}

// Each byte flipped, and each length but the right one (every third): refused, removed, counted.
TEST_F(PrefixSpillTest, AFileThatIsNotAsItWasIsRefused) {
  Take(1);
  spill_->Flush();
  const fs::path path = PathOf(1);
  const auto size = static_cast<int>(fs::file_size(path));
  int refused = 0;
  for (int at = 0; at < size; at += 3) {
    for (const bool cut : {false, true}) {
      Take(1);
      spill_->Flush();
      ASSERT_TRUE(Has(1));
      if (cut) {
        fs::resize_file(path, at);
      } else {
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekg(at);
        const int byte = file.get();
        file.seekp(at);
        file.put(static_cast<char>(byte ^ 0x10));
      }
      ASSERT_FALSE(Read(1).ok()) << "byte " << at;
      ASSERT_FALSE(fs::exists(path));
      ASSERT_FALSE(Has(1));
      ASSERT_EQ(spill_->stats().failed_total, ++refused);
    }
  }
  ExpectExactAccount();
  for (const std::string& fault : spill_->TakeFaults()) EXPECT_THAT(fault, HasSubstr("removed"));
}

TEST_F(PrefixSpillTest, AFileUnderAnothersNameIsRefused) {
  Take(1);
  Take(2);
  spill_->Flush();
  fs::copy_file(PathOf(1), PathOf(2), fs::copy_options::overwrite_existing);
  EXPECT_TRUE(absl::IsDataLoss(Read(2)));
  EXPECT_THAT(spill_->TakeFaults(), ElementsAre(HasSubstr("another block than its name says")));
  EXPECT_TRUE(Read(1).ok());
  // The right name, but asked for behind another prompt.
  std::vector<uint8_t> content(kContentBytes);
  EXPECT_TRUE(absl::IsDataLoss(
      spill_->Read(0, DigestOf(1), DigestOf(7), TokensOf(1), absl::MakeSpan(content))));
  ExpectExactAccount();
}

TEST_F(PrefixSpillTest, AFileThatVanishedIsAMissAndIsTold) {
  Take(1);
  spill_->Flush();
  fs::remove(PathOf(1));
  EXPECT_TRUE(absl::IsNotFound(Read(1)));
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(spill_->stats().failed_total, 1);
  ExpectExactAccount();
}

TEST_F(PrefixSpillTest, FoldersOfOtherModelsAreRemovedUnlessSomebodyHasThem) {
  Take(1);
  spill_->Flush();
  PrefixSpillConfig other = Config();
  other.model_fingerprint = "weights B";
  auto beside = PrefixSpill::Open(other).value();
  EXPECT_FALSE(beside->Has(0, DigestOf(1)));
  EXPECT_EQ(Files().size(), 1u);
  EXPECT_FALSE(beside->has_faults());
  EXPECT_TRUE(absl::IsFailedPrecondition(PrefixSpill::Open(Config()).status()));
  beside.reset();
  spill_.reset();
  beside = PrefixSpill::Open(other).value();
  EXPECT_TRUE(Files().empty());
  EXPECT_THAT(beside->TakeFaults(), ElementsAre(HasSubstr("1 files of other models")));
}

TEST_F(PrefixSpillTest, LeftoversOfAnInterruptedWriteAreRemoved) {
  Take(1);
  spill_->Flush();
  const fs::path folder = PathOf(1).parent_path();
  spill_.reset();
  std::ofstream(folder / "00000000000000000000000000000001-0.12345678.tmp") << "half";
  std::ofstream(folder / "00000000000000000000000000000002-0.kvp");  // emptied, not removed
  std::ofstream(folder / "notes.txt") << "not ours";
  Open(Config());
  ExpectExactAccount();
  EXPECT_EQ(spill_->stats().files, 1);
  EXPECT_TRUE(fs::exists(folder / "notes.txt"));
}

// What no disk, quota or file size allows: told once, then nothing is written for a while.
TEST_F(PrefixSpillTest, AWriteThatFailsIsToldAndWritingPauses) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit unlimited;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &unlimited), 0);
  const rlimit limited{.rlim_cur = 100, .rlim_max = unlimited.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
  for (int i = 1; i <= 5; ++i) Take(i);
  spill_->Flush();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
  EXPECT_EQ(spill_->stats().failed_total, 1);
  EXPECT_EQ(spill_->stats().dropped_total, 4);
  EXPECT_EQ(spill_->stats().queued_bytes, 0);
  EXPECT_FALSE(Has(1));
  EXPECT_THAT(spill_->TakeFaults(), ElementsAre(HasSubstr("no prefix block is written for 1h")));
  ExpectExactAccount();
  Take(6);
  spill_->Flush();
  EXPECT_EQ(spill_->stats().dropped_total, 5) << "it pauses";
  PrefixSpillConfig config = Config();
  config.pause = std::chrono::milliseconds(0);
  Open(config);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
  Take(6);
  spill_->Flush();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
  Take(6);
  spill_->Flush();
  EXPECT_TRUE(Read(6).ok()) << "the pause is over";
}

// A folder in its place can be neither removed nor emptied as a file.
TEST_F(PrefixSpillTest, WhatCannotBeRemovedIsCountedOnceUntilItCan) {
  Take(1);
  spill_->Flush();
  PrefixSpillConfig config = Config();
  config.max_bytes = 2 * spill_->stats().bytes;
  config.pause = std::chrono::milliseconds(0);
  Open(config);
  Take(2);
  spill_->Flush();
  const fs::path oldest = PathOf(1);
  fs::remove(oldest);
  fs::create_directory(oldest);
  Take(3);
  spill_->Flush();
  EXPECT_FALSE(Has(1));
  EXPECT_FALSE(Has(3));
  EXPECT_TRUE(Read(2).ok()) << "one that can still be read";
  EXPECT_EQ(spill_->stats().files, 2);
  EXPECT_EQ(spill_->stats().bytes, config.max_bytes);
  fs::remove(oldest);
  Take(1);
  spill_->Flush();
  Take(3);
  spill_->Flush();
  EXPECT_TRUE(Read(3).ok());
  ExpectExactAccount();
  // The only one.
  config.max_bytes /= 2;
  Open(config);
  const fs::path last = Files().at(0);
  fs::remove(last);
  fs::create_directory(last);
  Take(4);
  spill_->Flush();
  EXPECT_FALSE(Has(4));
  fs::remove(last);
  Take(5);
  spill_->Flush();
  EXPECT_TRUE(Read(5).ok());
  ExpectExactAccount();
}

TEST_F(PrefixSpillTest, TheQueueIsBoundedAndAPatientOneWaits) {
  PrefixSpillConfig config = Config();
  config.max_queue_bytes = kContentBytes;
  Open(config);
  for (int i = 0; i < 200; ++i) Take(i);
  spill_->Flush();
  const PrefixSpillStats stats = spill_->stats();
  EXPECT_EQ(stats.written_total + stats.dropped_total, 200);
  spill_->BePatient();
  for (int i = 0; i < 200; ++i) Take(i);
  spill_->Flush();
  EXPECT_EQ(spill_->stats().written_total, 200);
  EXPECT_EQ(spill_->stats().dropped_total, stats.dropped_total);
}

// Random use beside a naive twin: a list in order of use, cut off at the limit.
TEST_F(PrefixSpillTest, TheLeastRecentlyUsedMakeRoomAlsoAfterARestart) {
  PrefixSpillConfig config = Config();
  const int64_t file_bytes = [&] {
    Take(0);
    spill_->Flush();
    return spill_->stats().bytes;
  }();
  fs::remove_all(PathOf(0).parent_path());
  constexpr size_t kMost = 7;
  config.max_bytes = kMost * file_bytes + file_bytes / 2;
  std::mt19937 random(5);
  for (const bool by_count : {false, true}) {
    if (by_count) {
      config.max_files = kMost;
      config.max_bytes = 1 << 20;
    }
    Open(config);
    std::list<uint64_t> twin;  // least recently used first
    for (const fs::path& path : Files()) fs::remove(path);
    Open(config);
    for (int step = 0; step < 2000; ++step) {
      const uint64_t number = random() % 12;
      const bool known = std::find(twin.begin(), twin.end(), number) != twin.end();
      ASSERT_EQ(Has(number), known) << "step " << step;
      const int dice = static_cast<int>(random() % 100);
      if (dice < 50) {
        Take(number);
        spill_->Flush();
        twin.remove(number);
        twin.push_back(number);
        if (twin.size() > kMost) twin.pop_front();
      } else if (dice < 98) {
        ASSERT_EQ(Read(number).ok(), known);
        if (known) {
          twin.remove(number);
          twin.push_back(number);
        }
      } else {
        // The order on disk is that of reads and writes.
        for (const uint64_t each : std::list<uint64_t>(twin)) ASSERT_TRUE(Read(each).ok());
        Open(config);
      }
      ASSERT_EQ(spill_->stats().files, static_cast<int64_t>(twin.size()));
    }
    ExpectExactAccount();
    EXPECT_EQ(spill_->stats().failed_total, 0);
  }
}

class SharedPrefixSpillTest : public PrefixSpillTest {
 protected:
  void SetUp() override {}
  PrefixSpillConfig Shared() {
    PrefixSpillConfig config = Config();
    config.shared = true;
    config.look_period = std::chrono::milliseconds(1);
    return config;
  }
  static void AwaitHas(const PrefixSpill& spill, uint64_t number, bool has) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (spill.Has(0, DigestOf(number)) != has) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      std::this_thread::yield();
    }
  }
};

TEST_F(SharedPrefixSpillTest, ReplicasFindEachOthersBlocks) {
  auto a = PrefixSpill::Open(Shared()).value(), b = PrefixSpill::Open(Shared()).value();
  EXPECT_EQ(a->hash_key(), b->hash_key());
  EXPECT_TRUE(absl::IsFailedPrecondition(PrefixSpill::Open(Config()).status())) << "alone";
  Take(a.get(), 1);
  AwaitHas(*b, 1, true);
  EXPECT_TRUE(Read(b.get(), 1).ok());
  Take(b.get(), 1);
  b->Flush();
  EXPECT_EQ(b->stats().written_total, 0);
}

TEST_F(SharedPrefixSpillTest, ABlockThatAnotherRemovedIsAMissAndNoMore) {
  PrefixSpillConfig slow = Shared();
  slow.look_period = std::chrono::hours(1);
  auto a = PrefixSpill::Open(Shared()).value();
  Take(a.get(), 1);
  a->Flush();
  auto b = PrefixSpill::Open(slow).value();
  ASSERT_TRUE(b->Has(0, DigestOf(1)));
  fs::remove(PathOf(1));
  EXPECT_TRUE(absl::IsNotFound(Read(b.get(), 1)));
  EXPECT_EQ(b->stats().failed_total, 0);
  EXPECT_FALSE(b->Has(0, DigestOf(1)));
  AwaitHas(*a, 1, false);
}

// Three write, read and push out the same few blocks at once: whatever is found is right, nothing
// is taken for damaged, and the folder stays within its limit.
TEST_F(SharedPrefixSpillTest, ManyAtOnce) {
  constexpr int kReplicas = 3;
  PrefixSpillConfig config = Shared();
  config.max_bytes = 6000;  // some dozen files
  std::vector<std::unique_ptr<PrefixSpill>> spills;
  for (int i = 0; i < kReplicas; ++i) spills.push_back(PrefixSpill::Open(config).value());
  std::vector<std::thread> threads;
  for (int i = 0; i < kReplicas; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(i);
      for (int step = 0; step < 600; ++step) {
        const uint64_t number = random() % 30;
        if (random() % 2 == 0) {
          Take(spills[i].get(), number);
        } else if (const absl::Status status = Read(spills[i].get(), number); !status.ok()) {
          EXPECT_TRUE(absl::IsNotFound(status)) << status;
        }
      }
      spills[i]->Flush();
    });
  }
  for (std::thread& thread : threads) thread.join();
  int64_t read = 0;
  for (auto& spill : spills) {
    EXPECT_EQ(spill->stats().failed_total, 0);
    for (const std::string& fault : spill->TakeFaults()) ADD_FAILURE() << fault;
    read += spill->stats().read_total;
    spill.reset();
  }
  EXPECT_GT(read, 0);
  EXPECT_TRUE(Files(".tmp").empty());
  spill_ = PrefixSpill::Open(Shared()).value();
  ExpectExactAccount();
}

TEST(StoredBlockNameTest, NamesGoThereAndBack) {
  const StoredBlockName name{.group = 12, .digest = {.words = {0x0123456789abcdef, 5}}};
  EXPECT_EQ(StoredBlockFileName(name), "0123456789abcdef0000000000000005-12.kvp");
  StoredBlockName parsed;
  ASSERT_TRUE(ParseStoredBlockFileName(StoredBlockFileName(name), &parsed));
  EXPECT_TRUE(parsed == name);
  for (const char* other :
       {"", ".kvp", "0123456789abcdef0000000000000005.kvp", "0123456789abcdef0000000000000005-.kvp",
        "0123456789abcdef0000000000000005--1.kvp", "0123456789abcdef0000000000000005-012.kvp",
        "0123456789abcdef0000000000000005-99999999.kvp", "0123456789ABCDEF0000000000000005-12.kvp",
        "0123456789abcdef000000000000005-12.kvp", "0123456789abcdef0000000000000005-12.kvs",
        "0123456789abcdef0000000000000005-1 2.kvp"}) {
    EXPECT_FALSE(ParseStoredBlockFileName(other, &parsed)) << other;
  }
}

}  // namespace
}  // namespace kvasir
