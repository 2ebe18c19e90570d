// Names of models on a hub that speaks Hugging Face's API: hf:ORG/REPO[@REVISION][:PATTERN]. Pure
// functions, thread safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

struct HubReference {
  std::string repo;               // "org/name", or "name" of the oldest ones
  std::string revision = "main";  // a branch, a tag or a commit; may hold slashes
  std::string pattern;            // which GGUF file; empty = the repository's own form

  // As it was written, without what is a default.
  std::string Text() const;
  // "name" of "org/name".
  std::string ModelName() const;
};

// Whether a model's path is meant as a name on a hub, well formed or not.
bool IsHubReference(absl::string_view path);

// InvalidArgument with the form that is wanted. The "hf:" may be absent.
absl::StatusOr<HubReference> ParseHubReference(absl::string_view text);

// Whether it is the full name of a commit: then it never means something else later.
bool IsCommit(absl::string_view revision);

}  // namespace kvasir
