#include "base/regular_file.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/mmap_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using testing::HasSubstr;

class RegularFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/regular_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    path_ = folder_ + "/file";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Both ways to read refuse what stands under the path, at once and with its name.
  void ExpectRefused(const std::string& path, const std::string& what) {
    for (const absl::Status& status :
         {ReadRegularFile(path, 100).status(), MmapFile::Open(path).status()}) {
      EXPECT_FALSE(status.ok());
      EXPECT_THAT(std::string(status.message()), testing::AllOf(HasSubstr(path), HasSubstr(what)));
    }
  }

  std::string folder_, path_;
};

TEST_F(RegularFileTest, ReadsUpToTheLimit) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{65536}, size_t{200001}}) {
    const std::string contents(size, 'x');
    std::ofstream(path_, std::ios::binary) << contents;
    EXPECT_EQ(*ReadRegularFile(path_, size), contents);
    EXPECT_EQ(*ReadRegularFile(path_, size + 1), contents);
    if (size == 0) continue;
    const absl::Status over = ReadRegularFile(path_, size - 1).status();
    EXPECT_EQ(over.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(over.message()), HasSubstr("larger than"));
  }
}

TEST_F(RegularFileTest, FollowsLinks) {
  std::ofstream(folder_ + "/there", std::ios::binary) << "abc";
  std::filesystem::create_symlink("there", path_);
  EXPECT_EQ(*ReadRegularFile(path_, 10), "abc");
  std::filesystem::remove(folder_ + "/there");
  EXPECT_EQ(ReadRegularFile(path_, 10).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RegularFileTest, NothingElseIsAFile) {
  ExpectRefused(path_, "No such file");
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  ExpectRefused(path_, "a pipe");
  ExpectRefused(folder_, "a folder");
  ExpectRefused("/dev/zero", "a device");
}

TEST_F(RegularFileTest, SocketsAreNoFiles) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path_.size(), sizeof address.sun_path);
  path_.copy(address.sun_path, path_.size());
  const int socket_fd = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ExpectRefused(path_, "cannot open");
  // What callers take for a file that is not there.
  EXPECT_FALSE(absl::IsNotFound(ReadRegularFile(path_, 100).status()));
  close(socket_fd);
}

}  // namespace
}  // namespace kvasir
