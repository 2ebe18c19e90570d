// Spilling and restoring as it should go, its bounds, and many threads. Damage:
// kv_spill_damage_test.cc.
#include "kvcache/spill/kv_spill.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "kvcache/kv_cache_manager.h"
#include "tests/kvcache/kv_pattern.h"
#include "tests/kvcache/kv_schemes.h"
#include "tests/kvcache/spill/kv_spill_fixture.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Payload;
using testing::Restored;
using ::testing::SizeIs;
using testing::Tokens;
using testing::WriteFile;

using KvSpillTest = testing::SpillFixture;

// Stops the writer at a known place: its temporary file is a pipe, whose opening waits for a
// reader.
class WriterGate {
 public:
  explicit WriterGate(const std::filesystem::path& temporary) : path_(temporary) {
    KVASIR_CHECK(mkfifo(path_.c_str(), 0600) == 0);
  }
  // Lets the writer go on; what it writes comes to nothing, since a pipe cannot be synced.
  void Open() {
    const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    KVASIR_CHECK(fd >= 0);
    char buffer[4096];
    while (read(fd, buffer, sizeof(buffer)) > 0) {
    }
    close(fd);
  }

 private:
  const std::filesystem::path path_;
};

TEST_F(KvSpillTest, RoundTripFromQueueAndFromDisk) {
  ASSERT_TRUE(Spill("a", 1));
  ExpectSession("a", 1);  // from the queue or the disk, whichever it is by now
  spill_->Flush();
  ExpectSession("a", 1);
  ExpectSession("a", 1);  // the file stays
  EXPECT_THAT(directory_.Names(".kvs"), ElementsAre(SpillFileName("a")));
  EXPECT_THAT(directory_.Names(".tmp"), IsEmpty());
  const KvSpillStats stats = spill_->stats();
  EXPECT_EQ(stats.files, 1);
  EXPECT_EQ(stats.bytes, static_cast<int64_t>(std::filesystem::file_size(PathOf("a"))));
  EXPECT_EQ(stats.queued_jobs, 0);
  EXPECT_EQ(stats.queued_bytes, 0);
  EXPECT_EQ(stats.written_total, 1);
  EXPECT_EQ(stats.restored_total, 3);
  EXPECT_EQ(stats.restored_bytes_total, 900);
  struct stat file;
  ASSERT_EQ(stat(PathOf("a").c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(KvSpillTest, UnknownSession) {
  EXPECT_EQ(Restore("nobody").status.code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(spill_->Contains("nobody"));
  EXPECT_FALSE(spill_->Remove("nobody"));
}

TEST_F(KvSpillTest, NewerStateReplacesOlder) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  ASSERT_TRUE(Spill("a", 2, 500));
  ExpectSession("a", 2, 500);
  spill_->Flush();
  ExpectSession("a", 2, 500);
  EXPECT_EQ(spill_->stats().files, 1);
  EXPECT_EQ(spill_->stats().bytes, static_cast<int64_t>(std::filesystem::file_size(PathOf("a"))));
}

TEST_F(KvSpillTest, RemovedSessionsAreGoneFromDisk) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  EXPECT_TRUE(spill_->Remove("a"));
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(directory_.Names(".kvs"), IsEmpty());
  EXPECT_EQ(spill_->stats().bytes, 0);
}

// Order and times are those of the spills, though all fall into one tick of the file system's
// clock.
// The disk has the bytes back when Flush returns, and the name is gone before.
TEST_F(KvSpillTest, RemovedFilesAreNotKeptOpen) {
  const auto open_files = [] {
    int64_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      (void)entry;
      ++count;
    }
    return count;
  };
  const int64_t before = open_files();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(Spill("a" + std::to_string(i), i)) << i;
    spill_->Flush();
  }
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(spill_->Remove("a" + std::to_string(i)));
    EXPECT_FALSE(std::filesystem::exists(PathOf("a" + std::to_string(i))));
  }
  spill_->Flush();
  EXPECT_EQ(open_files(), before);
  EXPECT_EQ(spill_->stats().bytes, 0);
}

TEST_F(KvSpillTest, RestartKeepsAgeOrder) {
  for (const char* id : {"c", "a", "d", "b"}) ASSERT_TRUE(Spill(id, 1));
  spill_->Flush();
  const auto before = spill_->List();
  Open(Config());
  const auto after = spill_->List();
  ASSERT_THAT(after, SizeIs(4));
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(after[i].id, before[i].id);
    EXPECT_EQ(after[i].time, before[i].time);
  }
}

TEST_F(KvSpillTest, RestartFindsSessionsAgain) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  ASSERT_TRUE(Spill(std::string("b\0\xFF/../", 8), 2));  // any bytes make an id
  spill_.reset();                                        // writes what is queued
  Open(Config());
  const auto list = spill_->List();
  ASSERT_THAT(list, SizeIs(2));
  EXPECT_EQ(list[0].id, "a");
  EXPECT_EQ(list[0].metadata, "meta a");
  EXPECT_EQ(list[0].num_tokens, 5);
  EXPECT_FALSE(list[0].queued);
  ExpectSession("a", 1);
  ExpectSession(std::string("b\0\xFF/../", 8), 2);
}

TEST_F(KvSpillTest, TemporariesAreRemovedAndStrangersLeftAlone) {
  spill_.reset();
  WriteFile(TemporaryOf("a"), "half a file");
  WriteFile(directory_.path() / "notes.txt", "the operator's");
  WriteFile(directory_.path() / "short.kvs", "not a name of ours");
  Open(Config());
  EXPECT_FALSE(std::filesystem::exists(TemporaryOf("a")));
  EXPECT_TRUE(std::filesystem::exists(directory_.path() / "notes.txt"));
  EXPECT_TRUE(std::filesystem::exists(directory_.path() / "short.kvs"));
  EXPECT_EQ(spill_->stats().files, 0);
}

TEST_F(KvSpillTest, OneProcessPerDirectory) {
  const auto second = KvSpill::Open(Config());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
}

TEST_F(KvSpillTest, OpenRefusesNonsenseAndUnusableDirectories) {
  KvSpillConfig config = Config();
  config.directory = "";
  EXPECT_EQ(KvSpill::Open(config).status().code(), absl::StatusCode::kInvalidArgument);
  config = Config();
  config.max_directory_bytes = 0;
  EXPECT_EQ(KvSpill::Open(config).status().code(), absl::StatusCode::kInvalidArgument);
  config = Config();
  config.directory += "/missing/spill";
  EXPECT_EQ(KvSpill::Open(config).status().code(), absl::StatusCode::kNotFound);
  config = Config();
  WriteFile(directory_.path() / "file", "");
  config.directory += "/file";
  EXPECT_FALSE(KvSpill::Open(config).ok());
}

// ---- bounds ----

TEST_F(KvSpillTest, OldestFilesMakeRoom) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  const int64_t file_bytes = spill_->stats().bytes;
  KvSpillConfig config = Config();
  config.max_directory_bytes = 3 * file_bytes;
  Open(config);
  for (const char* id : {"b", "c", "d"}) {
    ASSERT_TRUE(Spill(id, 1));
    spill_->Flush();
    EXPECT_LE(spill_->stats().bytes, config.max_directory_bytes);
  }
  EXPECT_FALSE(spill_->Contains("a"));
  EXPECT_TRUE(spill_->Contains("b") && spill_->Contains("c") && spill_->Contains("d"));
  EXPECT_EQ(spill_->stats().dropped_total, 1);
  EXPECT_EQ(spill_->stats().files, 3);
  // Room for a newer state of the same session is made by its older one, not by others.
  ASSERT_TRUE(Spill("d", 2));
  spill_->Flush();
  EXPECT_TRUE(spill_->Contains("b"));
  ExpectSession("d", 2);
  // A smaller limit is met at the next start.
  config.max_directory_bytes = file_bytes;
  Open(config);
  EXPECT_EQ(spill_->stats().files, 1);
  EXPECT_TRUE(spill_->Contains("d"));
}

TEST_F(KvSpillTest, WhatCanNeverFitIsRefused) {
  EXPECT_FALSE(Spill("huge", 1, 2 << 20));
  EXPECT_FALSE(Spill("", 1));
  EXPECT_FALSE(Spill(std::string(kMaxSpillIdBytes + 1, 'x'), 1));
  EXPECT_FALSE(
      spill_->SpillAsync("a", std::string(kMaxSpillMetadataBytes + 1, 'x'), Tokens(1, 1), {1}));
  EXPECT_FALSE(spill_->SpillAsync("a", "", {}, {1}));
  EXPECT_FALSE(spill_->SpillAsync("a", "", Tokens(1, 1), {}));
  EXPECT_EQ(spill_->stats().dropped_total, 6);
  EXPECT_EQ(spill_->stats().queued_jobs, 0);
}

TEST_F(KvSpillTest, QueueIsBoundedAndServesRestores) {
  KvSpillConfig config = Config();
  config.max_queue_jobs = 3;
  config.max_queue_bytes = 1'000;
  Open(config);
  WriterGate gate(TemporaryOf("stuck"));
  ASSERT_TRUE(Spill("stuck", 1));
  ASSERT_TRUE(Spill("b", 2));
  ASSERT_TRUE(Spill("c", 3));
  EXPECT_FALSE(Spill("d", 4, 10));   // jobs
  ASSERT_TRUE(Spill("c", 5, 400));   // replaces: no job more
  EXPECT_FALSE(Spill("c", 6, 401));  // bytes: 300 + 300 + 401
  EXPECT_EQ(spill_->stats().queued_jobs, 3);
  EXPECT_EQ(spill_->stats().queued_bytes, 1'000);
  EXPECT_EQ(spill_->stats().dropped_total, 2);

  EXPECT_THAT(spill_->List(), SizeIs(3));
  EXPECT_TRUE(spill_->List()[1].queued);
  ExpectSession("stuck", 1);  // being written
  ExpectSession("b", 2);      // waiting
  ExpectSession("c", 5, 400);
  EXPECT_FALSE(spill_->Contains("d"));

  EXPECT_TRUE(spill_->Remove("b"));
  EXPECT_EQ(Restore("b").status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(spill_->stats().queued_bytes, 700);

  gate.Open();
  spill_->Flush();
  EXPECT_EQ(spill_->stats().queued_jobs, 0);
  ExpectSession("c", 5, 400);
  EXPECT_THAT(directory_.Names(".kvs"), ElementsAre(SpillFileName("c")));
  EXPECT_THAT(Errors(), ElementsAre(HasSubstr("stuck: spill: cannot write")));
}

TEST_F(KvSpillTest, RemoveWhileBeingWritten) {
  WriterGate gate(TemporaryOf("a"));
  ASSERT_TRUE(Spill("a", 1));
  EXPECT_TRUE(spill_->Remove("a"));
  EXPECT_FALSE(spill_->Remove("a"));
  EXPECT_FALSE(spill_->Contains("a"));
  EXPECT_THAT(spill_->List(), IsEmpty());
  // If the writer had not begun, it never will: then nothing else opens the pipe.
  if (spill_->stats().queued_jobs > 0) gate.Open();
  spill_->Flush();
  EXPECT_THAT(directory_.Names(".kvs"), IsEmpty());
}

TEST_F(KvSpillTest, RestoreWaitsForNobody) {
  ASSERT_TRUE(Spill("on disk", 1));
  spill_->Flush();
  WriterGate gate(TemporaryOf("stuck"));
  ASSERT_TRUE(Spill("stuck", 2));
  ExpectSession("on disk", 1);
  gate.Open();
}

// ---- with the manager ----

TEST_F(KvSpillTest, KvGoesToDiskAndComesBackIntoTheArena) {
  for (const auto& scheme : testing::TinySchemes()) {
    SCOPED_TRACE(scheme.name);
    const KvLayout layout = testing::MustCreate(scheme.spec);
    auto manager = *KvCacheManager::Create(
        layout, {.capacity_bytes = testing::BytesOf(layout, 8), .poison_free_blocks = true});
    const testing::KvPattern pattern(manager->arena());
    const std::vector<int32_t> tokens = Tokens(75, 1'000);
    BlockTable table = manager->NewTable();
    ASSERT_TRUE(manager->Reserve(&table, 75));
    pattern.WriteAll(table, 3, tokens, 0);
    manager->Commit(3, tokens, &table);
    ASSERT_TRUE(spill_->SpillAsync(scheme.name, "", tokens, manager->ExportBlocks(table)));
    table.Clear();
    manager->EvictCache(0);
    spill_->Flush();

    const auto restored = spill_->Restore(scheme.name, [&](const SpilledSequence& sequence) {
      return manager->ReserveForImport(&table, static_cast<int>(sequence.tokens.size()));
    });
    ASSERT_TRUE(restored.ok()) << restored.status();
    manager->Commit(3, restored->tokens, &table);
    EXPECT_EQ(table.num_tokens(), 75);
    EXPECT_TRUE(pattern.MatchesAll(table, 3, tokens));
  }
}

// ---- threads ----

// Four threads on few names; what a restore returns must be whole: payload and tokens of one and
// the same spill.
TEST_F(KvSpillTest, ThreadsNeverSeeAMixedState) {
  KvSpillConfig config = Config();
  config.max_queue_jobs = 6;
  config.max_directory_bytes = 3'000;  // some files are pushed out
  Open(config);
  std::atomic<int> restored_count{0};
  const auto worker = [&](int seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 2'000; ++i) {
      const std::string id(1, static_cast<char>('a' + random() % 6));
      switch (random() % 6) {
        case 0:
          spill_->Remove(id);
          break;
        case 1:
          spill_->List();
          spill_->stats();
          break;
        case 2:
        case 3:
          Spill(id, random() % 1'000, 200 + random() % 200);
          break;
        default: {
          const Restored restored = Restore(id);
          if (!restored.status.ok()) {
            ASSERT_EQ(restored.status.code(), absl::StatusCode::kNotFound) << restored.status;
            break;
          }
          ++restored_count;
          ASSERT_EQ(restored.sequence.metadata, "meta " + id);
          ASSERT_EQ(restored.payload,
                    Payload(restored.payload.size(), restored.sequence.tokens[0]));
        }
      }
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) threads.emplace_back(worker, t);
  for (std::thread& thread : threads) thread.join();
  spill_->Flush();
  EXPECT_GT(restored_count, 0);
  EXPECT_EQ(spill_->stats().damaged_total, 0);
  int64_t bytes = 0;
  for (const std::string& name : directory_.Names(".kvs")) {
    bytes += static_cast<int64_t>(std::filesystem::file_size(directory_.path() / name));
  }
  EXPECT_EQ(spill_->stats().bytes, bytes);
  EXPECT_EQ(spill_->stats().files, static_cast<int64_t>(directory_.Names(".kvs").size()));
  EXPECT_LE(bytes, config.max_directory_bytes);
}

}  // namespace
}  // namespace kvasir
