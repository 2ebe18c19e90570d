#include "base/mmap_file.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

std::string WriteFile(const std::string& name, const std::string& contents) {
  const std::string path = testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

TEST(MmapFile, MapsTheBytes) {
  const auto file = MmapFile::Open(WriteFile("mapped", "Kvasir"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->bytes().size(), 6u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file->bytes().data()), 6), "Kvasir");
}

TEST(MmapFile, MovingKeepsTheMapping) {
  auto file = MmapFile::Open(WriteFile("moved", "abc"));
  ASSERT_TRUE(file.ok());
  const uint8_t* data = file->bytes().data();
  MmapFile other = *std::move(file);
  EXPECT_EQ(other.bytes().data(), data);
  EXPECT_EQ(other.bytes()[2], 'c');
}

TEST(MmapFile, EmptyFileHasNoBytes) {
  const auto file = MmapFile::Open(WriteFile("empty", ""));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MmapFile, ReleasedPagesCanBeReadAgain) {
  const std::string contents(64 * 1024, 'x');
  const auto file = MmapFile::Open(WriteFile("released", contents));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->bytes()[20000], 'x');
  file->Release(1, contents.size() - 2);
  EXPECT_EQ(file->bytes()[20000], 'x');
}

TEST(MmapFile, ErrorsNameThePath) {
  const auto missing = MmapFile::Open("/nonexistent/weights");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("/nonexistent/weights"), absl::string_view::npos);
  EXPECT_FALSE(MmapFile::Open(testing::TempDir()).ok());
}

}  // namespace
}  // namespace kvasir
