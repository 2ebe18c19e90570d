#include "kvcache/kv_spill.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <future>
#include <iterator>
#include <random>
#include <thread>

#include "kvcache/kv_cache_manager.h"
#include "tests/kvcache/kv_pattern.h"
#include "tests/kvcache/kv_schemes.h"
#include "tests/kvcache/temporary_directory.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using testing::TemporaryDirectory;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

std::vector<uint8_t> Payload(size_t size_bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> payload(size_bytes);
  for (uint8_t& byte : payload) byte = static_cast<uint8_t>(random());
  return payload;
}

std::vector<int32_t> Tokens(int count, int32_t first) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = first + i;
  return tokens;
}

struct Restored {
  absl::Status status;
  SpilledSequence sequence;
  std::vector<uint8_t> payload;
};

class KvSpillTest : public ::testing::Test {
 protected:
  KvSpillConfig Config() {
    return {.directory = directory_.path().string(),
            .max_directory_bytes = 1 << 20,
            .layout_fingerprint = 77,
            .model_fingerprint = "weights A",
            .on_write_error = [this](const std::string& id, const absl::Status& status) {
              AnnotatedLock lock(&errors_mutex_);
              errors_.push_back(id + ": " + std::string(status.message()));
            }};
  }

  void Open(KvSpillConfig config) {
    spill_.reset();
    auto spill = KvSpill::Open(std::move(config));
    ASSERT_TRUE(spill.ok()) << spill.status();
    spill_ = *std::move(spill);
  }

  void SetUp() override { Open(Config()); }

  bool Spill(const std::string& id, uint64_t seed, size_t payload_bytes = 300) {
    return spill_->SpillAsync(id, "meta " + id, Tokens(5, static_cast<int32_t>(seed)),
                              Payload(payload_bytes, seed));
  }

  Restored Restore(const std::string& id) {
    Restored restored;
    auto sequence = spill_->Restore(id, [&](const SpilledSequence& s) {
      restored.payload.resize(s.payload_bytes);
      // In two parts, as blocks of an arena would be.
      const size_t half = restored.payload.size() / 2;
      return absl::StatusOr<std::vector<absl::Span<uint8_t>>>(
          {absl::MakeSpan(restored.payload).first(half),
           absl::MakeSpan(restored.payload).subspan(half)});
    });
    restored.status = sequence.status();
    if (sequence.ok()) restored.sequence = *std::move(sequence);
    return restored;
  }

  void ExpectSession(const std::string& id, uint64_t seed, size_t payload_bytes = 300) {
    const Restored restored = Restore(id);
    ASSERT_TRUE(restored.status.ok()) << restored.status;
    EXPECT_EQ(restored.sequence.metadata, "meta " + id);
    EXPECT_EQ(restored.sequence.tokens, Tokens(5, static_cast<int32_t>(seed)));
    EXPECT_EQ(restored.payload, Payload(payload_bytes, seed));
  }

  std::filesystem::path PathOf(const std::string& id) {
    return directory_.path() / SpillFileName(id);
  }

  std::filesystem::path TemporaryOf(const std::string& id) {
    return PathOf(id).replace_extension(".tmp");
  }

  std::vector<std::string> Errors() {
    AnnotatedLock lock(&errors_mutex_);
    return errors_;
  }

  TemporaryDirectory directory_;
  AnnotatedMutex errors_mutex_;
  std::vector<std::string> errors_;
  std::unique_ptr<KvSpill> spill_;
};

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

// ---- damage ----

TEST_F(KvSpillTest, EveryFlippedBitIsNoticed) {
  ASSERT_TRUE(Spill("a", 1, 64));
  spill_.reset();
  const std::string good = ReadFile(PathOf("a"));
  const int directory_fd = open(directory_.path().c_str(), O_RDONLY | O_DIRECTORY);
  const std::string name = SpillFileName("a");
  const auto read_all = [&] {
    auto reader = SpillFileReader::Open(directory_fd, name);
    if (!reader.ok()) return reader.status();
    std::vector<uint8_t> payload(reader->header().payload_bytes);
    const absl::Span<uint8_t> target[] = {absl::MakeSpan(payload)};
    return reader->ReadPayload(target);
  };
  ASSERT_TRUE(read_all().ok());
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] ^= static_cast<char>(1 << (bit % 8));
    WriteFile(PathOf("a"), bad);
    const absl::Status status = read_all();
    const bool version = bit / 8 >= 8 && bit / 8 < 12;
    EXPECT_EQ(status.code(),
              version ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kDataLoss)
        << "bit " << bit << ": " << status;
  }
  close(directory_fd);
}

TEST_F(KvSpillTest, EveryTruncationAndAnythingAppendedIsNoticed) {
  ASSERT_TRUE(Spill("a", 1, 64));
  spill_.reset();
  const std::string good = ReadFile(PathOf("a"));
  for (size_t size = 0; size <= good.size() + 1; ++size) {
    WriteFile(PathOf("a"), size <= good.size() ? good.substr(0, size) : good + "x");
    Open(Config());
    if (size == good.size()) {
      ExpectSession("a", 1, 64);
      continue;
    }
    EXPECT_EQ(spill_->stats().damaged_total, 1) << size;
    EXPECT_FALSE(spill_->Contains("a"));
    EXPECT_FALSE(std::filesystem::exists(PathOf("a")));
  }
}

TEST_F(KvSpillTest, DamageFoundAtRestoreSaysWhatAndRemovesTheFile) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  std::string bytes = ReadFile(PathOf("a"));
  bytes.back() ^= 1;
  WriteFile(PathOf("a"), bytes);
  const Restored restored = Restore("a");
  EXPECT_EQ(restored.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(restored.status.message()),
              HasSubstr("payload does not match its checksum"));
  EXPECT_EQ(spill_->stats().damaged_total, 1);
  EXPECT_EQ(spill_->stats().files, 0);
  EXPECT_FALSE(std::filesystem::exists(PathOf("a")));
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kNotFound);
}

TEST_F(KvSpillTest, FileShortenedUnderUs) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  std::filesystem::resize_file(PathOf("a"), std::filesystem::file_size(PathOf("a")) - 1);
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(KvSpillTest, FileRemovedUnderUs) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  std::filesystem::remove(PathOf("a"));
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kNotFound);
}

TEST_F(KvSpillTest, FileOfAnotherSession) {
  ASSERT_TRUE(Spill("a", 1));
  ASSERT_TRUE(Spill("b", 2));
  spill_->Flush();
  std::filesystem::copy_file(PathOf("b"), PathOf("a"),
                             std::filesystem::copy_options::overwrite_existing);
  const Restored restored = Restore("a");
  EXPECT_EQ(restored.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(restored.status.message()), HasSubstr("another session"));
  ExpectSession("b", 2);
}

TEST_F(KvSpillTest, OtherModelOrLayoutIsNotOurs) {
  for (const bool other_model : {false, true}) {
    Open(Config());
    ASSERT_TRUE(Spill("a", 1));
    KvSpillConfig config = Config();
    if (other_model) {
      config.model_fingerprint = "weights B";
    } else {
      ++config.layout_fingerprint;
    }
    Open(config);
    EXPECT_FALSE(spill_->Contains("a"));
    EXPECT_EQ(spill_->stats().dropped_total, 1);
    EXPECT_EQ(spill_->stats().damaged_total, 0);
    EXPECT_THAT(directory_.Names(".kvs"), IsEmpty());
  }
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

// ---- the disk says no ----

TEST_F(KvSpillTest, FullDiskLosesOnlyTheSession) {
  ASSERT_TRUE(Spill("a", 1));
  ASSERT_TRUE(Spill("b", 2));
  spill_->Flush();
  // A file size limit stands in for a full disk: write() fails half-way.
  struct sigaction ignore {
  }, former{};
  ignore.sa_handler = SIG_IGN;
  ASSERT_EQ(sigaction(SIGXFSZ, &ignore, &former), 0);
  rlimit unlimited;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &unlimited), 0);
  const rlimit limited{.rlim_cur = 1'000, .rlim_max = unlimited.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
  ASSERT_TRUE(Spill("a", 3, 5'000));
  spill_->Flush();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
  sigaction(SIGXFSZ, &former, nullptr);

  EXPECT_THAT(Errors(), ElementsAre(HasSubstr("File too large")));
  EXPECT_EQ(spill_->stats().dropped_total, 1);
  EXPECT_THAT(directory_.Names(".tmp"), IsEmpty());
  // The older state of "a" would pass for the current one: gone too.
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kNotFound);
  ExpectSession("b", 2);
  ASSERT_TRUE(Spill("a", 4));  // and the writer lives on
  spill_->Flush();
  ExpectSession("a", 4);
}

TEST_F(KvSpillTest, VanishedDirectoryLosesOnlySessions) {
  std::filesystem::remove_all(directory_.path());
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  EXPECT_THAT(Errors(), SizeIs(1));
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kNotFound);
}

TEST_F(KvSpillTest, TargetThatFailsOrHasTheWrongSizeKeepsTheFile) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  EXPECT_EQ(
      spill_
          ->Restore("a",
                    [](const SpilledSequence&) -> absl::StatusOr<std::vector<absl::Span<uint8_t>>> {
                      return absl::ResourceExhaustedError("no blocks");
                    })
          .status()
          .code(),
      absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(
      spill_
          ->Restore("a",
                    [](const SpilledSequence&) -> absl::StatusOr<std::vector<absl::Span<uint8_t>>> {
                      return std::vector<absl::Span<uint8_t>>();
                    })
          .status()
          .code(),
      absl::StatusCode::kInvalidArgument);
  ExpectSession("a", 1);
}

// ---- with the manager ----

TEST_F(KvSpillTest, KvGoesToDiskAndComesBackIntoTheArena) {
  for (const auto& scheme : testing::TinySchemes()) {
    SCOPED_TRACE(scheme.name);
    auto manager = *KvCacheManager::Create(testing::MustCreate(scheme.spec),
                                           {.num_blocks = 8, .poison_free_blocks = true});
    const testing::KvPattern pattern(manager->arena());
    const std::vector<int32_t> tokens = Tokens(75, 1'000);
    BlockTable table = manager->NewTable();
    ASSERT_TRUE(manager->Reserve(&table, 75));
    pattern.WriteAll(table, 3, tokens, 0);
    manager->Commit(3, tokens, &table);
    ASSERT_TRUE(spill_->SpillAsync(scheme.name, "", tokens, manager->ExportBlocks(table)));
    table.Clear();
    manager->DropCache();
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
