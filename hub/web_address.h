// Just enough about URLs: who is asked, and how a name is written into one. Pure functions, thread
// safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// What a secret may be sent to: the same scheme, host and port.
struct WebOrigin {
  std::string scheme;  // "https" or "http"
  std::string host;    // lower case; IPv6 in brackets
  std::string port;    // as a number, also where the URL leaves it out

  bool operator==(const WebOrigin&) const = default;
  bool IsLoopback() const;
  std::string Text() const;
};

// InvalidArgument for what is no http or https URL with a host.
absl::StatusOr<WebOrigin> OriginOf(const std::string& url);

// Everything but letters, digits and -._~ as %XX; slashes too unless `keep_slashes`.
std::string PercentEncoded(absl::string_view text, bool keep_slashes);

}  // namespace kvasir
