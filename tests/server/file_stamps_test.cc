#include "server/process/file_stamps.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

class FileStampsTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/stamps_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    Write(path_, "abc");
  }
  void TearDown() override { std::filesystem::remove(path_); }

  // With a time of its own, so that no test depends on the clock.
  void Write(const std::string& path, const std::string& contents, int second = 1000) {
    std::ofstream(path, std::ios::binary) << contents;
    const timespec stamps[] = {{second, 0}, {second, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), stamps, 0), 0);
  }

  std::string path_;
};

TEST_F(FileStampsTest, EveryChangeIsSeen) {
  const FileStamps before({path_});
  EXPECT_TRUE(FileStamps({path_}) == before);
  Write(path_, "abcd");
  EXPECT_FALSE(FileStamps({path_}) == before) << "size";
  Write(path_, "abc", 1001);
  EXPECT_FALSE(FileStamps({path_}) == before) << "time";
  Write(path_, "abc");
  EXPECT_TRUE(FileStamps({path_}) == before);
  Write(path_ + ".new", "abc");
  std::filesystem::rename(path_ + ".new", path_);
  EXPECT_FALSE(FileStamps({path_}) == before) << "another file";
  std::filesystem::remove(path_);
  const FileStamps absent({path_});
  EXPECT_FALSE(absent == before);
  EXPECT_TRUE(FileStamps({path_}) == absent);
  EXPECT_FALSE(FileStamps({path_, path_}) == absent) << "another list";
}

TEST_F(FileStampsTest, RecentChangesMayGoOn) {
  const absl::Time written = absl::FromUnixSeconds(1000);
  const FileStamps stamps({path_, "/no/such/file"});
  EXPECT_TRUE(stamps.ChangedWithin(absl::Milliseconds(300), written));
  EXPECT_TRUE(stamps.ChangedWithin(absl::Milliseconds(300), written + absl::Milliseconds(299)));
  EXPECT_FALSE(stamps.ChangedWithin(absl::Milliseconds(300), written + absl::Milliseconds(300)));
  EXPECT_FALSE(stamps.ChangedWithin(absl::Milliseconds(300), written - absl::Hours(24)))
      << "the clock was set back";
}

}  // namespace
}  // namespace kvasir
