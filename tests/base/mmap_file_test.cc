#include "base/mmap_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/mapped_pages.h"
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

TEST(MmapFile, AFileThatBecomesShorterReadsAsZerosAndIsCounted) {
  SurviveLostReads();
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  const std::string path = WriteFile("shorter", std::string(5 * page, 'x'));
  const auto other = MmapFile::Open(WriteFile("whole", std::string(5 * page, 'y')));
  const auto file = MmapFile::Open(path);
  ASSERT_TRUE(file.ok() && other.ok());
  const int64_t before = LostReads();
  std::filesystem::resize_file(path, 2 * page);
  EXPECT_EQ(file->bytes()[2 * page - 1], 'x');
  EXPECT_EQ(LostReads(), before);
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] { EXPECT_EQ(file->bytes()[3 * page + 7], 0); });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(file->bytes()[5 * page - 1], 0);
  EXPECT_GE(LostReads(), before + 1);
  EXPECT_EQ(file->bytes()[2 * page - 1], 'x');
  EXPECT_EQ(other->bytes()[5 * page - 1], 'y');
}

TEST(MmapFile, OtherBusErrorsEndTheProcess) {
  EXPECT_EXIT(
      {
        SurviveLostReads();
        const std::string path = WriteFile("foreign", std::string(8192, 'x'));
        const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        const auto* const bytes =
            static_cast<const volatile char*>(mmap(nullptr, 8192, PROT_READ, MAP_PRIVATE, fd, 0));
        std::filesystem::resize_file(path, 0);
        (void)bytes[0];
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

// Whether the page of `data` is in this process's memory (of a private mapping, mincore speaks of
// the page cache). Nothing where the kernel does not say.
std::optional<bool> IsResident(const uint8_t* data) {
  const int pages = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pages < 0) return std::nullopt;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGE_SIZE));
  uint64_t entry = 0;
  const auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(data) / page * sizeof(entry));
  const ssize_t got = pread(pages, &entry, sizeof(entry), at);
  close(pages);
  if (got != sizeof(entry)) return std::nullopt;
  return entry >> 63 != 0;
}

TEST(MappedPages, ReleasesWholePagesOfAMapping) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  const auto file = MmapFile::Open(WriteFile("pages", std::string(8 * page, 'x')));
  ASSERT_TRUE(file.ok());
  const uint8_t* data = file->bytes().data();
  const auto touch = [&] {
    for (size_t i = 0; i < 8; ++i) EXPECT_EQ(data[i * page], 'x');
  };
  PrefetchMapped(data + 1, 8 * page - 1);
  touch();
  if (!IsResident(data)) GTEST_SKIP() << "NO /proc/self/pagemap";
  ASSERT_TRUE(*IsResident(data + 3 * page));
  ReleaseMapped(data + 2 * page + 1, 3 * page);  // pages 3 and 4, and pieces of 2 and 5
  EXPECT_TRUE(*IsResident(data + 2 * page));
  EXPECT_FALSE(*IsResident(data + 3 * page));
  EXPECT_FALSE(*IsResident(data + 4 * page));
  EXPECT_TRUE(*IsResident(data + 5 * page));
  touch();
}

// What is no mapping would lose its contents.
TEST(MappedPages, LeavesOtherMemoryAlone) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  std::vector<uint8_t> own(8 * page, 7);
  ReleaseMapped(own.data(), own.size());
  PrefetchMapped(own.data(), own.size());
  EXPECT_EQ(own, std::vector<uint8_t>(8 * page, 7));
  const uint8_t* gone = nullptr;
  {
    const auto file = MmapFile::Open(WriteFile("gone", std::string(4 * page, 'x')));
    ASSERT_TRUE(file.ok());
    gone = file->bytes().data();
    // More than the mapping holds.
    EXPECT_EQ(gone[page], 'x');
    ReleaseMapped(gone, 4 * page + 1);
    EXPECT_NE(IsResident(gone + page), false);
  }
  ReleaseMapped(gone, 4 * page);
}

TEST(MmapFile, ErrorsNameThePath) {
  const auto missing = MmapFile::Open("/nonexistent/weights");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("/nonexistent/weights"), absl::string_view::npos);
  EXPECT_FALSE(MmapFile::Open(testing::TempDir()).ok());
}

}  // namespace
}  // namespace kvasir
