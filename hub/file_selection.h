// Which files of a repository are needed to serve its model: no more than the daemon loads, in the
// form that it loads best. Pure functions over a list of files, so the same choice is made of a
// hub's list and of a cache's folder. Thread safe.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hub/repo_file.h"

namespace kvasir {

struct FileSelection {
  // In the order of their download: the weights last, so that whoever has them has all.
  std::vector<RepoFile> files;
  int64_t weight_bytes = 0;
  // The GGUF file to load (the first part of several), below the repository's root; empty = the
  // folder itself, with config.json and safetensors.
  std::string gguf;
  // GGUF files that were not chosen, for want of a pattern.
  std::vector<std::string> others;
};

// The text of one of the files; only asked for the index of the weights.
using FileReader = std::function<absl::StatusOr<std::string>(const RepoFile& file)>;

// `pattern`: of a GGUF file: its name or path, with * and ? if wanted, or a word of its name such
// as Q4_K_M. Without one: safetensors, where there are any; else the only GGUF file, else the only
// one of type Q4_K_M. Errors: NotFound (nothing here that can be loaded, or that matches),
// InvalidArgument (several that match: they are named), those of `read`.
absl::StatusOr<FileSelection> SelectFiles(const std::string& repo, std::vector<RepoFile> files,
                                          const std::string& pattern, const FileReader& read);

}  // namespace kvasir
