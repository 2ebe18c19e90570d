#include "server/config/host_port.h"

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/config/ip_network.h"

namespace kvasir {
namespace {

// sockaddr_un has 108, with the zero at its end.
constexpr size_t kMaxUnixPathBytes = 107;

}  // namespace

std::string HostPort::ToString() const {
  if (!unix_path.empty()) return absl::StrCat("unix://", unix_path);
  const bool is_ipv6 = absl::StrContains(host, ":");
  return is_ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

bool HostPort::IsLocal() const { return !unix_path.empty() || IsLoopbackHost(host); }

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const auto fault = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("is '", text.substr(0, 256), "', ", what,
                     "; write HOST:PORT, as in 127.0.0.1:50051 or [::1]:50051, or "
                     "unix:///PATH"));
  };
  HostPort address;
  if (absl::StartsWith(text, "unix:")) {
    absl::string_view path = text;
    if (!absl::ConsumePrefix(&path, "unix://") || !absl::StartsWith(path, "/") ||
        absl::EndsWith(path, "/") || absl::StrContains(path, absl::string_view("\0", 1))) {
      return fault("whose path is not that of a file, from the root");
    }
    if (path.size() > kMaxUnixPathBytes) {
      return fault(
          absl::StrCat("whose path has ", path.size(), " bytes of at most ", kMaxUnixPathBytes));
    }
    address.unix_path = std::string(path);
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return fault("which has no port");
  absl::string_view host = text.substr(0, colon);
  const absl::string_view port = text.substr(colon + 1);
  // SimpleAtoi alone would take signs and spaces.
  if (port.empty() || port.find_first_not_of("0123456789") != absl::string_view::npos ||
      !absl::SimpleAtoi(port, &address.port) || address.port > 65535) {
    return fault("whose port is not a number between 0 and 65535");
  }
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ":")) {
    return fault("where an IPv6 address needs brackets");
  }
  if (host.empty()) return fault("which has no host");
  for (const char c : host) {
    if (!absl::ascii_isalnum(c) && !absl::StrContains(".-_:%", absl::string_view(&c, 1))) {
      return fault("whose host has characters that no name or address has");
    }
  }
  address.host = std::string(host);
  return address;
}

}  // namespace kvasir
