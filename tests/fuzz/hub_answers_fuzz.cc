// Any bytes as the hub's list of files. Whatever is accepted must be safe to use as names of files.

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "hub/file_selection.h"
#include "hub/hub_answers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using kvasir::RepoFile;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  (void)kvasir::NextPage(bytes);
  (void)kvasir::ParseCommit(bytes, "fuzz");
  auto files = kvasir::ParseListing(bytes, "o/r", "fuzz");
  if (!files.ok()) {
    KVASIR_CHECK(!files.status().message().empty());
    return 0;
  }
  for (const RepoFile& file : *files) {
    KVASIR_CHECK(!file.path.empty() && file.path[0] != '/' && file.size_bytes >= 0);
    KVASIR_CHECK(!absl::StrContains(absl::StrCat("/", file.path, "/"), "/../"));
    KVASIR_CHECK(file.digest.find_first_not_of("0123456789abcdef") == std::string::npos);
    KVASIR_CHECK(file.digest.size() == 40 || file.digest.size() == 64);
  }
  // The same bytes as the index of the weights.
  (void)kvasir::SelectFiles("o/r", *files, "", [&](const RepoFile&) { return bytes; });
  (void)kvasir::SelectFiles("o/r",
                            {{"config.json", 1, ""},
                             {"tokenizer.json", 1, ""},
                             {"model.safetensors.index.json", 1, ""},
                             {"a.safetensors", 1, ""}},
                            "", [&](const RepoFile&) { return bytes; });
  return 0;
}
