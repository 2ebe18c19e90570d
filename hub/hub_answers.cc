#include "hub/hub_answers.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/json_nesting.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "hub/hub_reference.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

constexpr int kMaxNesting = 32;
constexpr size_t kMaxPathBytes = 1024;
constexpr int64_t kMaxFileBytes = int64_t{1} << 44;  // 16 TiB

bool IsHex(absl::string_view text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

// It becomes a path below the snapshot's folder, so it must stay there.
bool StaysBelow(absl::string_view path) {
  if (path.empty() || path.size() > kMaxPathBytes) return false;
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
  }
  return std::none_of(path.begin(), path.end(),
                      [](char c) { return absl::ascii_iscntrl(c) || c == '\\'; });
}

absl::StatusOr<Json> Parsed(absl::string_view body, absl::string_view what) {
  Json json = Json::value_t::discarded;
  if (JsonNestingDepth(body) <= kMaxNesting) {
    json = Json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  }
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the hub's answer about ", what, " is no JSON but ", Quoted(body),
                     "; HF_ENDPOINT must name a server that speaks the hub's API"));
  }
  return json;
}

std::string TextOf(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

absl::StatusOr<RepoFile> ReadEntry(const Json& entry, const std::string& repo) {
  const auto fault = [&](absl::string_view path, absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("the hub's list of ", repo, " has the file ",
                                                   Quoted(path, 200), ", ", what,
                                                   "; nothing was downloaded"));
  };
  RepoFile file;
  file.path = TextOf(entry, "path");
  if (!StaysBelow(file.path)) return fault(file.path, "which is no path below the model's folder");
  const auto lfs = entry.find("lfs");
  const bool is_large = lfs != entry.end() && lfs->is_object();
  const Json& source = is_large ? *lfs : entry;
  file.digest = TextOf(source, "oid");
  if (absl::StartsWith(file.digest, "sha256:")) file.digest.erase(0, 7);
  if (!IsHex(file.digest, is_large ? 64 : 40)) {
    return fault(file.path, absl::StrCat("without a checksum but ", Quoted(file.digest)));
  }
  const auto size = source.find("size");
  if (size == source.end() || !size->is_number_integer() || size->get<int64_t>() < 0 ||
      size->get<int64_t>() > kMaxFileBytes) {
    return fault(file.path, "without a size that makes sense");
  }
  file.size_bytes = size->get<int64_t>();
  return file;
}

}  // namespace

absl::StatusOr<std::string> ParseCommit(absl::string_view body, const std::string& what) {
  KVASIR_ASSIGN_OR_RETURN(const Json json, Parsed(body, what));
  const std::string commit = json.is_object() ? TextOf(json, "sha") : "";
  if (!IsCommit(commit)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the hub's answer about ", what, " names no commit but ", Quoted(commit)));
  }
  return commit;
}

absl::StatusOr<std::vector<RepoFile>> ParseListing(absl::string_view body, const std::string& repo,
                                                   const std::string& what) {
  KVASIR_ASSIGN_OR_RETURN(const Json json, Parsed(body, what));
  if (!json.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the hub's answer about ", what, " is no list of files"));
  }
  std::vector<RepoFile> files;
  for (const Json& entry : json) {
    if (!entry.is_object() || TextOf(entry, "type") != "file") continue;  // a folder
    KVASIR_ASSIGN_OR_RETURN(RepoFile file, ReadEntry(entry, repo));
    files.push_back(std::move(file));
  }
  return files;
}

std::string NextPage(absl::string_view header) {
  for (const absl::string_view link : absl::StrSplit(header, ',')) {
    const size_t open = link.find('<');
    const size_t close = link.find('>');
    if (open == absl::string_view::npos || close == absl::string_view::npos || close < open)
      continue;
    const absl::string_view parameters = link.substr(close + 1);
    if (absl::StrContains(parameters, "rel=\"next\"") ||
        absl::StrContains(parameters, "rel=next")) {
      return std::string(link.substr(open + 1, close - open - 1));
    }
  }
  return "";
}

}  // namespace kvasir
