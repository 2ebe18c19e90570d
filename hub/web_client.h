// GET over HTTP and HTTPS, through libcurl: redirects followed here, one by one, so that a secret
// never leaves the host that it is for; certificates checked always; proxies as the environment
// says (http_proxy, https_proxy, no_proxy), but none for this machine itself. Every wait has an
// end.
//
// One thread at a time; blocks. Connections are kept for the next request.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvasir {

struct WebRequest {
  std::string url;
  std::string bearer_token;   // empty = none; only for the origin of `url`
  int64_t first_byte = 0;     // above 0: asks for what is from here on
  size_t max_body_bytes = 0;  // of a body that is kept; what has more is refused
};

struct WebResponse {
  int status = 0;
  // Of the answer that is no redirect: names in lower case, of several of a name the last.
  std::map<std::string, std::string> headers;
  std::string body;  // kept for lack of a sink, and of answers that are no success
  std::string url;   // that answered, after redirects

  // Empty when it is absent.
  std::string Header(const std::string& name) const;
};

class WebClient {
 public:
  struct Options {
    std::string ca_file, ca_folder;  // empty = the system's
    std::string user_agent;
    absl::Duration connect_timeout = absl::Seconds(30);
    // A transfer that moves nothing for so long is given up.
    absl::Duration stall_timeout = absl::Seconds(60);
    // Ends what runs, within a second, once it is true; null = never.
    const std::atomic<bool>* cancelled = nullptr;
  };
  // Called before the body of a success (2xx), when there is a sink.
  using HeadSink = std::function<absl::Status(const WebResponse& head)>;
  // Takes the body piece by piece; an error ends the request with it.
  using BodySink = std::function<absl::Status(absl::string_view bytes)>;

  explicit WebClient(Options options);
  ~WebClient();
  WebClient(const WebClient&) = delete;
  WebClient& operator=(const WebClient&) = delete;

  // Any status is an answer. Errors: Unavailable (nobody there, cut off, stalled: worth another
  // try), FailedPrecondition (a certificate that is not trusted, a redirect that must not be
  // followed), ResourceExhausted (a body above its limit), InvalidArgument (no such URL),
  // Cancelled, and those of the sinks.
  absl::StatusOr<WebResponse> Get(const WebRequest& request, const HeadSink& head = nullptr,
                                  const BodySink& body = nullptr);

 private:
  struct Exchange;
  absl::Status Perform(const WebRequest& request, const std::string& url, bool send_token,
                       Exchange* exchange);

  const Options options_;
  std::unique_ptr<void, void (*)(void*)> curl_;
};

}  // namespace kvasir
