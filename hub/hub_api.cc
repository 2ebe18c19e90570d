#include "hub/hub_api.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "hub/hub_answers.h"
#include "hub/web_address.h"

namespace kvasir {
namespace {

// A page of the hub's listing has 1000 files of at most some hundred bytes each.
constexpr size_t kMaxPageBytes = 16 << 20;
constexpr int kMaxPages = 200;
constexpr size_t kMaxFiles = 100'000;
// Seconds or a date; nothing when it is absent or senseless.
absl::Duration RetryAfter(const WebResponse& response) {
  const std::string text = response.Header("retry-after");
  if (int64_t seconds = 0; absl::SimpleAtoi(text, &seconds) && seconds >= 0) {
    return absl::Seconds(seconds);
  }
  absl::Time at;
  if (absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", text, &at, nullptr)) {
    return std::max(at - absl::Now(), absl::ZeroDuration());
  }
  return absl::ZeroDuration();
}

}  // namespace

HubApi::HubApi(const HubSettings* settings, WebClient* http, Retry* retry)
    : settings_(*settings), http_(*http), retry_(*retry) {}

std::string HubApi::Token() const {
  const absl::StatusOr<WebOrigin> origin = OriginOf(settings_.endpoint);
  return origin.ok() && (origin->scheme == "https" || origin->IsLoopback()) ? settings_.token : "";
}

absl::Status HubApi::Judge(const WebResponse& response, const std::string& repo,
                           const std::string& what) const {
  const int status = response.status;
  if (status >= 200 && status < 300) return absl::OkStatus();
  const std::string code = response.Header("x-error-code");
  const std::string page = absl::StrCat(settings_.endpoint, "/", repo);
  const bool has_token = !Token().empty();
  std::string said = response.Header("x-error-message");
  said = said.empty() ? "" : absl::StrCat(" (the hub says ", Quoted(said, 200), ")");
  if (code == "GatedRepo" || (status == 403 && code.empty())) {
    return absl::PermissionDeniedError(
        absl::StrCat(repo, " is open only to those who accepted its terms: accept them at ", page,
                     has_token ? " with the account of this HF_TOKEN"
                               : ", then set HF_TOKEN to a token of that account",
                     said));
  }
  if (status == 401 || status == 403) {
    if (has_token) {
      return absl::UnauthenticatedError(absl::StrCat("the hub refuses ", repo,
                                                     " to this HF_TOKEN: is it valid, may it read ",
                                                     page, ", is the name right?", said));
    }
    return absl::UnauthenticatedError(
        absl::StrCat(repo, " does not exist, or is private: look at ", page,
                     "; for a private model set HF_TOKEN, or put a token into $HF_HOME/token",
                     settings_.token.empty()
                         ? ""
                         : " (there is one, but HF_ENDPOINT is not https://, so it is not sent)",
                     said));
  }
  if (code == "RevisionNotFound") {
    return absl::NotFoundError(
        absl::StrCat(repo, " has no such revision: ", what, "; ", page, "/tree/main lists them"));
  }
  if (status == 404 || status == 410) {
    return absl::NotFoundError(absl::StrCat(what, " is not on the hub; look at ", page, said));
  }
  if (status == 429) {
    return WorthAnotherTry(absl::ResourceExhaustedError(absl::StrCat(
                               "the hub has had too many requests from here",
                               has_token ? "" : "; with an HF_TOKEN it allows more", said)),
                           RetryAfter(response));
  }
  if (status >= 500 || status == 408) {
    return WorthAnotherTry(absl::UnavailableError(absl::StrCat("the hub answers ", status,
                                                               " when asked for ", what, said)),
                           RetryAfter(response));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the hub answers ", status, " when asked for ", what, said));
}

absl::StatusOr<WebResponse> HubApi::GetJson(const std::string& repo, const std::string& url,
                                            const std::string& what) {
  WebRequest request;
  request.url = url;
  request.bearer_token = Token();
  request.max_body_bytes = kMaxPageBytes;
  WebResponse response;
  KVASIR_RETURN_IF_ERROR(retry_.Run([&](bool*) -> absl::Status {
    KVASIR_ASSIGN_OR_RETURN(response, http_.Get(request));
    return Judge(response, repo, what);
  }));
  return response;
}

absl::StatusOr<std::string> HubApi::FindCommit(const std::string& repo,
                                               const std::string& revision) {
  const std::string what = absl::StrCat(repo, "@", revision);
  KVASIR_ASSIGN_OR_RETURN(
      const WebResponse response,
      GetJson(repo,
              absl::StrCat(settings_.endpoint, "/api/models/", repo, "/revision/",
                           PercentEncoded(revision, /*keep_slashes=*/false)),
              what));
  return ParseCommit(response.body, what);
}

absl::StatusOr<std::vector<RepoFile>> HubApi::ListFiles(const std::string& repo,
                                                        const std::string& commit) {
  const std::string what = absl::StrCat("the files of ", repo, "@", commit);
  KVASIR_ASSIGN_OR_RETURN(const WebOrigin hub, OriginOf(settings_.endpoint));
  std::string url =
      absl::StrCat(settings_.endpoint, "/api/models/", repo, "/tree/", commit, "?recursive=true");
  std::vector<RepoFile> files;
  std::set<std::string> seen;
  for (int pages = 0; !url.empty(); ++pages) {
    if (pages == kMaxPages || files.size() > kMaxFiles) {
      return absl::ResourceExhaustedError(absl::StrCat("the hub's list of ", repo,
                                                       " has more than ", kMaxPages, " pages or ",
                                                       kMaxFiles, " files; that is no model"));
    }
    KVASIR_ASSIGN_OR_RETURN(const WebResponse response, GetJson(repo, url, what));
    KVASIR_ASSIGN_OR_RETURN(std::vector<RepoFile> page, ParseListing(response.body, repo, what));
    for (RepoFile& file : page) {
      if (seen.insert(file.path).second) files.push_back(std::move(file));
    }
    url = NextPage(response.Header("link"));
    if (absl::StartsWith(url, "/")) url = absl::StrCat(hub.Text(), url);
    if (url.empty()) break;
    // The token goes along, so only to the hub itself.
    const absl::StatusOr<WebOrigin> next = OriginOf(url);
    if (!next.ok() || *next != hub) {
      return absl::InvalidArgumentError(absl::StrCat("the hub's list of ", repo, " goes on at ",
                                                     Quoted(url, 200), ", which is not the hub"));
    }
  }
  return files;
}

absl::Status HubApi::GetFile(const std::string& repo, const std::string& commit,
                             const std::string& path, int64_t first_byte,
                             const WebClient::HeadSink& head, const WebClient::BodySink& body) {
  WebRequest request;
  request.url = absl::StrCat(settings_.endpoint, "/", repo, "/resolve/", commit, "/",
                             PercentEncoded(path, /*keep_slashes=*/true));
  request.bearer_token = Token();
  request.first_byte = first_byte;
  KVASIR_ASSIGN_OR_RETURN(const WebResponse response, http_.Get(request, head, body));
  if (response.status == 416 && first_byte > 0) {
    return absl::OutOfRangeError(absl::StrCat(path, " has no byte ", first_byte));
  }
  return Judge(response, repo, absl::StrCat(repo, "/", path));
}

}  // namespace kvasir
