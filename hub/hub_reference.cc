#include "hub/hub_reference.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/quoted.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

constexpr absl::string_view kScheme = "hf:";
constexpr char kDefaultRevision[] = "main";
// The hub's own limit on the name of a repository; one on git's references that is far above any.
constexpr size_t kMaxRepoBytes = 96;
constexpr size_t kMaxRevisionBytes = 200;
constexpr size_t kMaxPatternBytes = 255;

absl::Status Fault(absl::string_view text, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text, 200), " ", what,
                   "; the form is hf:ORG/REPO[@REVISION][:PATTERN], as in "
                   "hf:Qwen/Qwen3-0.6B or hf:ORG/REPO-GGUF:Q4_K_M"));
}

bool IsNamePart(absl::string_view part) {
  if (part.empty() || part.front() == '.' || part.front() == '-' || part.back() == '.' ||
      part.back() == '-' || absl::StrContains(part, "--") || absl::StrContains(part, "..")) {
    return false;  // "--" separates the parts of a cache's folder names
  }
  return std::all_of(part.begin(), part.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_';
  });
}

bool IsRepo(absl::string_view repo) {
  const std::vector<absl::string_view> parts = absl::StrSplit(repo, '/');
  return repo.size() <= kMaxRepoBytes && parts.size() <= 2 &&
         std::all_of(parts.begin(), parts.end(), IsNamePart);
}

// It becomes a file's path below the cache's refs/, so it must stay there.
bool IsRevision(absl::string_view revision) {
  if (revision.size() > kMaxRevisionBytes) return false;
  for (const absl::string_view part : absl::StrSplit(revision, '/')) {
    if (part.empty() || part.front() == '.') return false;
    const bool plain = std::all_of(part.begin(), part.end(), [](char c) {
      return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_' || c == '+';
    });
    if (!plain) return false;
  }
  return true;
}

bool IsPattern(absl::string_view pattern) {
  return !absl::StartsWith(pattern, "/") && pattern.size() <= kMaxPatternBytes &&
         std::all_of(pattern.begin(), pattern.end(),
                     [](char c) { return absl::ascii_isprint(c); }) &&
         !absl::StrContains(pattern, "..");
}

}  // namespace

std::string HubReference::Text() const {
  return absl::StrCat(kScheme, repo, revision == kDefaultRevision ? "" : "@",
                      revision == kDefaultRevision ? "" : revision, pattern.empty() ? "" : ":",
                      pattern);
}

std::string HubReference::ModelName() const { return repo.substr(repo.find('/') + 1); }

bool IsHubReference(absl::string_view path) { return absl::StartsWith(path, kScheme); }

absl::StatusOr<HubReference> ParseHubReference(absl::string_view text) {
  HubReference reference;
  absl::string_view rest = absl::StripPrefix(text, kScheme);
  const size_t end_of_repo = rest.find_first_of("@:");
  reference.repo = std::string(rest.substr(0, end_of_repo));
  rest = end_of_repo == absl::string_view::npos ? "" : rest.substr(end_of_repo);
  if (absl::ConsumePrefix(&rest, "@")) {
    const size_t colon = rest.find(':');
    reference.revision = std::string(rest.substr(0, colon));
    rest = colon == absl::string_view::npos ? "" : rest.substr(colon);
    if (!IsRevision(reference.revision)) {
      return Fault(text, "has after the @ no name of a branch, tag or commit");
    }
  }
  if (absl::ConsumePrefix(&rest, ":")) {
    reference.pattern = std::string(rest);
    if (rest.empty() || !IsPattern(rest)) {
      return Fault(text, "has after the : no name or pattern of a file");
    }
  }
  if (!IsRepo(reference.repo)) return Fault(text, "names no repository");
  return reference;
}

bool IsCommit(absl::string_view revision) {
  return revision.size() == 40 && std::all_of(revision.begin(), revision.end(), [](char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

}  // namespace kvasir
