// The files beside the weights that make a folder a model: tokenizer, chat templates, generation
// defaults, licences.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvasir {

struct SideFile {
  std::string name;  // within the folder
  int64_t bytes = 0;
};

// Those that a folder has, by name. InvalidArgument: one is too large to be what its name says.
// NotFound: one is a link to nothing.
absl::StatusOr<std::vector<SideFile>> ListSideFiles(const std::string& folder);

absl::Status CopySideFiles(const std::string& from, const std::vector<SideFile>& files,
                           const std::string& to);

}  // namespace kvasir
