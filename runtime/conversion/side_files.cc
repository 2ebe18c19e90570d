#include "runtime/conversion/side_files.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/mmap_file.h"
#include "base/status_macros.h"
#include "runtime/conversion/output_file.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

// A tokenizer.json of 256 thousand tokens has 35 MB.
constexpr int64_t kMaxSideFileBytes = int64_t{256} << 20;

constexpr const char* kPatterns[] = {
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "generation_config.json",
    "chat_template.*",
    "LICENSE*",
    "NOTICE*",
};

bool IsSideFile(const std::string& name) {
  return std::any_of(std::begin(kPatterns), std::end(kPatterns),
                     [&](const char* pattern) { return fnmatch(pattern, name.c_str(), 0) == 0; });
}

}  // namespace

absl::StatusOr<std::vector<SideFile>> ListSideFiles(const std::string& folder) {
  std::vector<SideFile> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (!IsSideFile(name)) continue;
    if (it->is_symlink(ignored) && !it->exists(ignored)) {
      return absl::NotFoundError(
          absl::StrCat(folder, "/", name, " is a link to a file that is missing; fetch it"));
    }
    if (!it->is_regular_file(ignored)) continue;
    const auto bytes = static_cast<int64_t>(it->file_size(ignored));
    if (bytes > kMaxSideFileBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(folder, "/", name, " has ", bytes, " bytes, more than the limit of ",
                       kMaxSideFileBytes, "; is it what its name says?"));
    }
    files.push_back({name, bytes});
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot list the folder ", folder));
  }
  std::sort(files.begin(), files.end(),
            [](const SideFile& a, const SideFile& b) { return a.name < b.name; });
  return files;
}

absl::Status CopySideFiles(const std::string& from, const std::vector<SideFile>& files,
                           const std::string& to) {
  for (const SideFile& side : files) {
    KVASIR_ASSIGN_OR_RETURN(const MmapFile file,
                            MmapFile::Open(absl::StrCat(from, "/", side.name)));
    KVASIR_ASSIGN_OR_RETURN(OutputFile copy, OutputFile::Create(absl::StrCat(to, "/", side.name)));
    KVASIR_RETURN_IF_ERROR(copy.Write(file.bytes()));
    KVASIR_RETURN_IF_ERROR(copy.Finish());
  }
  return absl::OkStatus();
}

}  // namespace kvasir
