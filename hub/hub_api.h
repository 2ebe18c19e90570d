// The part of the hub's HTTP API that a download needs: which commit a revision is, which files it
// has, and where they are. Answers are foreign: names, sizes and digests are checked here, lengths
// bounded. Not thread safe; blocks.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hub/hub_settings.h"
#include "hub/repo_file.h"
#include "hub/retry.h"
#include "hub/web_client.h"

namespace kvasir {

class HubApi {
 public:
  // All must outlive it.
  HubApi(const HubSettings* settings, WebClient* http, Retry* retry);

  // Errors of all: NotFound (no such repository, revision or file), Unauthenticated (a token is
  // wanted, or this one refused), PermissionDenied (terms to accept first), ResourceExhausted (too
  // many requests), Unavailable (the hub cannot be reached), InvalidArgument (an answer that makes
  // no sense), those of WebClient.

  // 40 hex digits.
  absl::StatusOr<std::string> FindCommit(const std::string& repo, const std::string& revision);
  // All files of a commit, in folders too.
  absl::StatusOr<std::vector<RepoFile>> ListFiles(const std::string& repo,
                                                  const std::string& commit);
  // One try: what the hub answers goes to the sinks from `first_byte` on, if the hub can do that
  // (status 206). NotRetryable errors and Unavailable as of Get.
  absl::Status GetFile(const std::string& repo, const std::string& commit, const std::string& path,
                       int64_t first_byte, const WebClient::HeadSink& head,
                       const WebClient::BodySink& body);

 private:
  absl::StatusOr<WebResponse> GetJson(const std::string& repo, const std::string& url,
                                      const std::string& what);
  // OK, or what the hub's refusal means.
  absl::Status Judge(const WebResponse& response, const std::string& repo,
                     const std::string& what) const;
  // The token, unless it would go over the network unprotected.
  std::string Token() const;

  const HubSettings& settings_;
  WebClient& http_;
  Retry& retry_;
};

}  // namespace kvasir
