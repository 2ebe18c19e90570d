// A directory that lives as long as the object, in memory where the system has /dev/shm: tests that
// write thousands of synced files should not wait for a disk. Header only.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/check.h"

namespace kvasir::testing {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    for (const auto& parent :
         {std::filesystem::path("/dev/shm"), std::filesystem::temp_directory_path()}) {
      std::string pattern = (parent / "kvasir_test_XXXXXX").string();
      if (mkdtemp(pattern.data()) == nullptr) continue;
      path_ = pattern;
      return;
    }
    KVASIR_CHECK(false);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }

  // Names in it whose extension is `extension` (".kvs").
  std::vector<std::string> Names(const std::string& extension) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      if (entry.path().extension() == extension) names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace kvasir::testing
