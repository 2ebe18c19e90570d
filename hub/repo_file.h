// A file of a model's repository, as the hub lists it. A value.
#pragma once

#include <cstdint>
#include <string>

namespace kvasir {

struct RepoFile {
  std::string path;  // below the repository's root, "/" between folders
  int64_t size_bytes = 0;
  // What names its content in a cache, and checks it: the SHA-256 of large files (Git LFS), 64 hex
  // digits, or Git's own SHA-1 of small ones, 40. Empty of a file that is only known locally.
  std::string digest;
};

}  // namespace kvasir
