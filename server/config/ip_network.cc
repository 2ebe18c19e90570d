#include "server/config/ip_network.h"

#include <arpa/inet.h>

#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvasir {
namespace {

constexpr uint8_t kMappedPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
constexpr int kMappedBits = 96;

bool IsMappedIpv4(const IpAddress& address) {
  return std::memcmp(address.data(), kMappedPrefix, sizeof kMappedPrefix) == 0;
}

}  // namespace

std::optional<IpAddress> ParseIpAddress(absl::string_view text) {
  const std::string terminated(text.substr(0, INET6_ADDRSTRLEN));
  IpAddress address{};
  if (inet_pton(AF_INET6, terminated.c_str(), address.data()) == 1) return address;
  std::memcpy(address.data(), kMappedPrefix, sizeof kMappedPrefix);
  if (inet_pton(AF_INET, terminated.c_str(), address.data() + sizeof kMappedPrefix) == 1) {
    return address;
  }
  return std::nullopt;
}

bool IpNetwork::Contains(const IpAddress& other) const {
  const size_t whole_bytes = static_cast<size_t>(prefix_bits) / 8;
  if (std::memcmp(address.data(), other.data(), whole_bytes) != 0) return false;
  const int rest = prefix_bits % 8;
  return rest == 0 || ((address[whole_bytes] ^ other[whole_bytes]) >> (8 - rest)) == 0;
}

absl::StatusOr<IpNetwork> ParseIpNetwork(absl::string_view text) {
  const auto fault = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("is '", text.substr(0, 64), "', ", what,
                     "; write an address or a network, as in 192.0.2.7, 10.0.0.0/8 or ::1"));
  };
  const size_t slash = text.find('/');
  const std::optional<IpAddress> address = ParseIpAddress(text.substr(0, slash));
  if (!address.has_value()) return fault("which is no IP address");
  IpNetwork network{*address, 128};
  if (slash == absl::string_view::npos) return network;
  const int offset = IsMappedIpv4(*address) ? kMappedBits : 0;
  const absl::string_view bits = text.substr(slash + 1);
  int prefix_bits = 0;
  // SimpleAtoi alone would take signs and spaces.
  if (bits.empty() || bits.find_first_not_of("0123456789") != absl::string_view::npos ||
      !absl::SimpleAtoi(bits, &prefix_bits) || prefix_bits > 128 - offset) {
    return fault(absl::StrCat("whose prefix is not a number between 0 and ", 128 - offset));
  }
  network.prefix_bits = offset + prefix_bits;
  return network;
}

std::optional<IpAddress> PeerAddress(absl::string_view peer) {
  const size_t port = peer.rfind(':');
  if (port == absl::string_view::npos) return std::nullopt;
  peer = peer.substr(0, port);
  if (absl::ConsumePrefix(&peer, "ipv4:")) return ParseIpAddress(peer);
  if (!absl::ConsumePrefix(&peer, "ipv6:")) return std::nullopt;
  // Brackets come as they are or percent-encoded, by gRPC's version.
  if (!absl::ConsumePrefix(&peer, "%5B")) absl::ConsumePrefix(&peer, "[");
  if (!absl::ConsumeSuffix(&peer, "%5D")) absl::ConsumeSuffix(&peer, "]");
  return ParseIpAddress(peer);
}

bool IsLoopbackHost(absl::string_view host) {
  if (absl::EqualsIgnoreCase(host, "localhost")) return true;
  const std::optional<IpAddress> address = ParseIpAddress(host);
  if (!address.has_value()) return false;
  static const IpNetwork kIpv4Loopback = *ParseIpNetwork("127.0.0.0/8");
  static const IpNetwork kIpv6Loopback = *ParseIpNetwork("::1");
  return kIpv4Loopback.Contains(*address) || kIpv6Loopback.Contains(*address);
}

}  // namespace kvasir
