// Whatever the disk does to a file, a session is lost at worst: never wrong, never anybody else's.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kvcache/spill/kv_spill.h"
#include "tests/kvcache/spill/kv_spill_fixture.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ReadFile;
using testing::Restored;
using ::testing::SizeIs;
using testing::WriteFile;

using ::testing::Not;
using ::testing::UnorderedElementsAre;

class KvSpillDamageTest : public testing::SpillFixture {
 protected:
  // Of the losses since the last look.
  std::vector<SpillLoss::Cause> Causes() {
    std::vector<SpillLoss::Cause> causes;
    for (const SpillLoss& loss : spill_->TakeLosses()) causes.push_back(loss.cause);
    return causes;
  }
};

TEST_F(KvSpillDamageTest, EveryFlippedBitIsNoticed) {
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

TEST_F(KvSpillDamageTest, EveryTruncationAndAnythingAppendedIsNoticed) {
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

TEST_F(KvSpillDamageTest, DamageFoundAtRestoreSaysWhatAndRemovesTheFile) {
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

TEST_F(KvSpillDamageTest, FileShortenedUnderUs) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  std::filesystem::resize_file(PathOf("a"), std::filesystem::file_size(PathOf("a")) - 1);
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(KvSpillDamageTest, FileRemovedUnderUs) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  std::filesystem::remove(PathOf("a"));
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kNotFound);
}

TEST_F(KvSpillDamageTest, FileOfAnotherSession) {
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

TEST_F(KvSpillDamageTest, OtherModelOrLayoutIsNotOurs) {
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

// ---- the disk says no ----

TEST_F(KvSpillDamageTest, FullDiskLosesOnlyTheSession) {
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
  ASSERT_TRUE(spill_->has_losses());
  const std::vector<SpillLoss> losses = spill_->TakeLosses();
  ASSERT_THAT(losses, SizeIs(1));
  EXPECT_EQ(losses[0].cause, SpillLoss::Cause::kWriteFailed);
  EXPECT_EQ(losses[0].id, "a");
  EXPECT_THAT(losses[0].message, HasSubstr("File too large"));
  EXPECT_FALSE(spill_->Contains("a"));
  EXPECT_FALSE(spill_->has_losses()) << "taken once";
  // The older state of "a" would pass for the current one: gone too.
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kNotFound);
  ExpectSession("b", 2);
  ASSERT_TRUE(Spill("a", 4));  // and the writer lives on
  spill_->Flush();
  ExpectSession("a", 4);
}

// Whatever the start finds and does not serve is told, with what became of the file.
TEST_F(KvSpillDamageTest, FilesThatAreNotServedAreTold) {
  ASSERT_TRUE(Spill("short", 1));
  ASSERT_TRUE(Spill("magic", 2));
  ASSERT_TRUE(Spill("link", 3));
  ASSERT_TRUE(Spill("good", 4));
  spill_.reset();
  std::filesystem::resize_file(PathOf("short"), 50);
  std::string bytes = ReadFile(PathOf("magic"));
  bytes[0] ^= 1;
  WriteFile(PathOf("magic"), bytes);
  std::filesystem::remove(PathOf("link"));
  std::filesystem::create_symlink("elsewhere", PathOf("link"));
  Open(Config());
  EXPECT_THAT(Causes(), UnorderedElementsAre(SpillLoss::Cause::kDamaged, SpillLoss::Cause::kDamaged,
                                             SpillLoss::Cause::kUnreadable));
  ExpectSession("good", 4);
  EXPECT_TRUE(std::filesystem::is_symlink(PathOf("link"))) << "left to the operator";

  std::filesystem::remove(PathOf("link"));
  KvSpillConfig other = Config();
  other.model_fingerprint = "weights B";
  Open(other);
  EXPECT_THAT(Causes(), ElementsAre(SpillLoss::Cause::kForeign));
  EXPECT_THAT(directory_.Names(".kvs"), IsEmpty());
}

// A file that the start cannot read is somebody's old state: in the account as long as it is there,
// and gone with the first newer one.
TEST_F(KvSpillDamageTest, AnUnreadableFileIsCountedAndReplaced) {
  const auto make_unreadable = [&] {
    ASSERT_TRUE(Spill("a", 1));
    spill_.reset();
    std::filesystem::remove(PathOf("a"));
    std::filesystem::create_symlink("elsewhere", PathOf("a"));  // O_NOFOLLOW: ELOOP
    Open(Config());
    ASSERT_THAT(Causes(), ElementsAre(SpillLoss::Cause::kUnreadable));
    EXPECT_EQ(spill_->stats().files, 1);
    EXPECT_EQ(spill_->stats().bytes, static_cast<int64_t>(std::string("elsewhere").size()));
    EXPECT_FALSE(spill_->Contains("a"));
  };
  make_unreadable();
  EXPECT_TRUE(spill_->Remove("a")) << "the session goes on in memory";
  EXPECT_FALSE(std::filesystem::is_symlink(PathOf("a")));
  EXPECT_EQ(spill_->stats().files, 0);
  EXPECT_EQ(spill_->stats().bytes, 0);
  EXPECT_FALSE(spill_->Remove("a"));

  make_unreadable();
  ASSERT_TRUE(Spill("a", 2));
  spill_->Flush();
  ExpectSession("a", 2);
  EXPECT_EQ(spill_->stats().files, 1);
  EXPECT_EQ(spill_->stats().bytes, static_cast<int64_t>(std::filesystem::file_size(PathOf("a"))));
}

TEST_F(KvSpillDamageTest, WhatNewerSessionsPushOutIsTold) {
  KvSpillConfig small = Config();
  small.max_directory_bytes = 1'000;
  Open(small);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Spill(std::to_string(i), i));
  spill_->Flush();
  std::vector<SpillLoss> losses = spill_->TakeLosses();
  EXPECT_EQ(losses.size() + static_cast<size_t>(spill_->stats().files), 4u);
  ASSERT_THAT(losses, Not(IsEmpty()));
  EXPECT_EQ(losses[0].cause, SpillLoss::Cause::kPushedOut);
  EXPECT_EQ(losses[0].id, "0");
}

TEST_F(KvSpillDamageTest, AFileThatVanishesLeavesTheAccount) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  std::filesystem::remove(PathOf("a"));
  const absl::Status status = Restore("a").status;
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("No such file"));
  EXPECT_FALSE(spill_->Contains("a"));
  EXPECT_EQ(spill_->stats().files, 0);
  EXPECT_EQ(spill_->stats().bytes, 0);
}

TEST_F(KvSpillDamageTest, VanishedDirectoryLosesOnlySessions) {
  std::filesystem::remove_all(directory_.path());
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  EXPECT_THAT(Errors(), SizeIs(1));
  EXPECT_EQ(Restore("a").status.code(), absl::StatusCode::kNotFound);
}

TEST_F(KvSpillDamageTest, TargetThatFailsOrHasTheWrongSizeKeepsTheFile) {
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

// A folder in its place can be neither removed nor emptied as a file.
TEST_F(KvSpillDamageTest, WhatCannotBeRemovedIsCountedOnceUntilItCan) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  const int64_t bytes = spill_->stats().bytes;
  std::filesystem::remove(PathOf("a"));
  std::filesystem::create_directory(PathOf("a"));
  EXPECT_TRUE(spill_->Remove("a"));
  EXPECT_FALSE(spill_->Contains("a"));
  EXPECT_EQ(spill_->stats().files, 1);
  EXPECT_EQ(spill_->stats().bytes, bytes);
  EXPECT_EQ(spill_->TakeLosses().size(), 1u);
  std::filesystem::remove(PathOf("a"));
  ASSERT_TRUE(Spill("a", 2));
  spill_->Flush();
  EXPECT_EQ(spill_->stats().files, 1);
  EXPECT_EQ(spill_->stats().bytes, static_cast<int64_t>(std::filesystem::file_size(PathOf("a"))));
  EXPECT_TRUE(spill_->Remove("a"));
  EXPECT_EQ(spill_->stats().files, 0);
  EXPECT_EQ(spill_->stats().bytes, 0);
}

TEST_F(KvSpillDamageTest, ADiskThatLetsGoOfNothingKeepsTheOtherSessions) {
  ASSERT_TRUE(Spill("0", 0));
  spill_->Flush();
  KvSpillConfig config = Config();
  config.max_directory_bytes = 8 * spill_->stats().bytes;
  Open(config);
  for (int i = 1; i < 8; ++i) ASSERT_TRUE(Spill(std::to_string(i), i));
  spill_->Flush();
  std::vector<std::filesystem::path> aside;
  for (int i = 0; i < 8; ++i) {
    std::filesystem::rename(PathOf(std::to_string(i)), directory_.path() / std::to_string(i));
    std::filesystem::create_directory(PathOf(std::to_string(i)));
  }
  ASSERT_TRUE(Spill("new", 9));
  spill_->Flush();
  EXPECT_THAT(Errors(), ElementsAre(HasSubstr("bytes in files that could not be removed")));
  int64_t left = 0;
  for (int i = 0; i < 8; ++i) {
    std::filesystem::remove(PathOf(std::to_string(i)));
    std::filesystem::rename(directory_.path() / std::to_string(i), PathOf(std::to_string(i)));
    if (!spill_->Contains(std::to_string(i))) continue;
    ExpectSession(std::to_string(i), i);
    ++left;
  }
  EXPECT_EQ(left, 6);
}

TEST_F(KvSpillDamageTest, ADirectoryThatIsRemovedIsTold) {
  ASSERT_TRUE(Spill("a", 1));
  spill_->Flush();
  std::filesystem::remove_all(directory_.path());
  EXPECT_THAT(std::string(Restore("a").status.message()),
              HasSubstr("its directory was removed while it was in use; restart the daemon"));
  ASSERT_TRUE(Spill("b", 2));
  spill_->Flush();
  EXPECT_THAT(Errors(), ElementsAre(HasSubstr("its directory was removed while it was in use")));
  EXPECT_EQ(spill_->stats().bytes, 0);
}

}  // namespace
}  // namespace kvasir
