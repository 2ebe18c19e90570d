// What the hub's API answers, from JSON to values that may be used as paths and names of files. The
// texts are foreign: whatever they hold ends in a status. Pure functions, thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hub/repo_file.h"

namespace kvasir {

// Both: InvalidArgument with what is wrong; `what` says in messages what was asked about.

// The commit of a revision, 40 hex digits.
absl::StatusOr<std::string> ParseCommit(absl::string_view body, const std::string& what);

// One page of the list of files. Every path stays below the folder that it is joined to, every
// digest is lower hex of its length, every size at least 0; else none is given.
absl::StatusOr<std::vector<RepoFile>> ParseListing(absl::string_view body, const std::string& repo,
                                                   const std::string& what);

// The target of rel="next" in a Link header; empty when there is none.
std::string NextPage(absl::string_view header);

}  // namespace kvasir
