// Where results are written until they are whole.

#include "runtime/conversion/staged_output.h"

#include <errno.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/conversion/output_file.h"
#include "tests/model/checkpoint_writer.h"

namespace kvasir::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using Kind = StagedOutput::Kind;

class StagedOutputTest : public ::testing::Test {
 protected:
  std::string Place(const std::string& name) const { return folder_.path() + "/" + name; }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
  absl::StatusOr<StagedOutput> Begin(const std::string& name, Kind kind = Kind::kFolder,
                                     bool force = false) {
    return StagedOutput::Begin(Place(name), kind, force, Place("source"), 1000);
  }
  static std::string Content(const std::string& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  TempFolder folder_;
};

TEST_F(StagedOutputTest, AppearsWholeOrNotAtAll) {
  {
    auto output = Begin("result");
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_TRUE(WriteFile(output->folder() + "/config.json", "{}").ok());
    EXPECT_FALSE(fs::exists(Place("result")));
  }
  EXPECT_THAT(Names(), IsEmpty());
  {
    auto output = Begin("result/");
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_TRUE(WriteFile(output->folder() + "/config.json", "{}").ok());
    ASSERT_TRUE(output->Commit().ok());
  }
  EXPECT_THAT(Names(), ElementsAre("result"));
  EXPECT_EQ(Content(Place("result/config.json")), "{}");
  struct stat info;
  ASSERT_EQ(stat(Place("result").c_str(), &info), 0);
  EXPECT_NE(info.st_mode & S_IRUSR, 0u);
}

TEST_F(StagedOutputTest, FilesTakeTheirPlaceAlone) {
  for (const char* text : {"one", "two"}) {
    auto output = Begin("m.gguf", Kind::kFile, /*force=*/true);
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_TRUE(WriteFile(output->file(), text).ok());
    ASSERT_TRUE(output->Commit().ok());
  }
  EXPECT_THAT(Names(), ElementsAre("m.gguf"));
  EXPECT_EQ(Content(Place("m.gguf")), "two");
}

TEST_F(StagedOutputTest, ReplacesModelsOnly) {
  fs::create_directory(Place("result"));
  ASSERT_TRUE(WriteFile(Place("result/config.json"), "old").ok());
  EXPECT_EQ(Begin("result").status().code(), absl::StatusCode::kAlreadyExists);
  {
    auto output = Begin("result", Kind::kFolder, /*force=*/true);
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_TRUE(WriteFile(output->folder() + "/config.json", "new").ok());
    EXPECT_EQ(Content(Place("result/config.json")), "old");
    ASSERT_TRUE(output->Commit().ok());
  }
  EXPECT_EQ(Content(Place("result/config.json")), "new");
  EXPECT_THAT(Names(), ElementsAre("result"));

  fs::create_directory(Place("home"));
  ASSERT_TRUE(WriteFile(Place("home/letter.txt"), "dear").ok());
  const auto home = Begin("home", Kind::kFolder, /*force=*/true);
  EXPECT_EQ(home.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(home.status().message()), HasSubstr("is no model"));
  const auto letter = Begin("home/letter.txt", Kind::kFile, /*force=*/true);
  EXPECT_EQ(letter.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StagedOutputTest, NeverReplacesTheSource) {
  fs::create_directories(Place("source"));
  ASSERT_TRUE(WriteFile(Place("source/config.json"), "{}").ok());
  fs::create_directory_symlink(Place("source"), Place("link"));
  for (const char* name : {"source", "source/", "./source/../source", "link"}) {
    const auto output = Begin(name, Kind::kFolder, /*force=*/true);
    EXPECT_EQ(output.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(output.status().message()), HasSubstr("is the model to convert"));
  }
  // A folder in it; a file may be there.
  for (const char* name : {"source/result", "link/result", "source/../source/a"}) {
    const auto output = Begin(name, Kind::kFolder, /*force=*/true);
    EXPECT_EQ(output.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(output.status().message()), HasSubstr("inside the model to convert"));
  }
  EXPECT_TRUE(Begin("source/result.gguf", Kind::kFile).ok());
  // A folder around it.
  ASSERT_TRUE(WriteFile(folder_.path() + "/config.json", "{}").ok());
  EXPECT_FALSE(StagedOutput::Begin(folder_.path(), Kind::kFolder, true, Place("source"), 0).ok());
}

TEST_F(StagedOutputTest, WhatCameMeanwhileStays) {
  auto output = Begin("result");
  ASSERT_TRUE(output.ok());
  fs::create_directory(Place("result"));
  ASSERT_TRUE(WriteFile(Place("result/config.json"), "theirs").ok());
  EXPECT_EQ(output->Commit().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Content(Place("result/config.json")), "theirs");
}

TEST_F(StagedOutputTest, PlacesThatAreNone) {
  EXPECT_EQ(Begin("no/such/result").status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteFile(Place("file"), "").ok());
  EXPECT_FALSE(Begin("file/result").ok());
  for (const char* path : {"", "/", ".", ".."}) {
    EXPECT_FALSE(StagedOutput::Begin(path, Kind::kFolder, true, Place("source"), 0).ok()) << path;
  }
  const auto large =
      StagedOutput::Begin(Place("result"), Kind::kFolder, false, Place("source"), int64_t{1} << 60);
  EXPECT_EQ(large.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Names(), ElementsAre("file"));
}

TEST_F(StagedOutputTest, ADiskThatFillsUpMeanwhile) {
  fs::create_directory(Place("disk"));
  if (mount("none", Place("disk").c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "no small file system can be mounted here: " << std::strerror(errno);
  }
  absl::Status written;
  {
    auto output = Begin("disk/result");
    ASSERT_TRUE(output.ok()) << output.status();
    written = WriteFile(output->folder() + "/model.safetensors", std::string(100000, 'x'));
  }
  const bool empty = fs::is_empty(Place("disk"));
  umount(Place("disk").c_str());
  EXPECT_EQ(written.code(), absl::StatusCode::kResourceExhausted) << written;
  EXPECT_THAT(std::string(written.message()), HasSubstr("no space left"));
  EXPECT_TRUE(empty);
}

}  // namespace
}  // namespace kvasir::testing
