#include "runtime/model/loading/checkpoint_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/formats/gguf_file.h"

namespace kvasir {

absl::StatusOr<std::vector<std::string>> CheckpointFiles(const std::string& path) {
  if (absl::EndsWith(path, ".gguf")) return GgufParts(path);
  std::vector<std::string> files;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string kind = entry->path().extension().string();
    if (kind == ".safetensors" || kind == ".json" || kind == ".jinja" || kind == ".model")
      files.push_back(entry->path().string());
  }
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot list ", path));
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace kvasir
