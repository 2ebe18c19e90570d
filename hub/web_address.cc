#include "hub/web_address.h"

#include <curl/curl.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/quoted.h"

namespace kvasir {

bool WebOrigin::IsLoopback() const {
  return host == "localhost" || host == "[::1]" || absl::StartsWith(host, "127.");
}

std::string WebOrigin::Text() const {
  const bool usual = (scheme == "https" && port == "443") || (scheme == "http" && port == "80");
  return absl::StrCat(scheme, "://", host, usual ? "" : ":", usual ? "" : port);
}

absl::StatusOr<WebOrigin> OriginOf(const std::string& url) {
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
  const auto part = [&](CURLUPart which) {
    char* text = nullptr;
    if (curl_url_get(parsed.get(), which, &text, CURLU_DEFAULT_PORT) != CURLUE_OK)
      return std::string();
    std::string copy(text);
    curl_free(text);
    return copy;
  };
  WebOrigin origin;
  if (curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) == CURLUE_OK) {
    origin = {absl::AsciiStrToLower(part(CURLUPART_SCHEME)),
              absl::AsciiStrToLower(part(CURLUPART_HOST)), part(CURLUPART_PORT)};
  }
  if ((origin.scheme != "https" && origin.scheme != "http") || origin.host.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(url, 200), " is no http:// or https:// URL with a host"));
  }
  return origin;
}

std::string PercentEncoded(absl::string_view text, bool keep_slashes) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~' ||
                       (c == '/' && keep_slashes);
    if (plain) {
      encoded.push_back(c);
    } else {
      absl::StrAppendFormat(&encoded, "%%%02X", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

}  // namespace kvasir
