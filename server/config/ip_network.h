// Addresses and networks of IPv4 and IPv6: whose word a header is taken for, and which listener
// nobody else can reach. Plain values; pure functions, thread safe; no name is ever resolved.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// An address in network order; IPv4 as IPv4-mapped IPv6 (::ffff:a.b.c.d), so that both compare.
using IpAddress = std::array<uint8_t, 16>;

// "192.0.2.7", "::1"; nullopt when it is no address.
std::optional<IpAddress> ParseIpAddress(absl::string_view text);

struct IpNetwork {
  IpAddress address{};
  int prefix_bits = 128;  // of the 128-bit form

  bool Contains(const IpAddress& other) const;
};

// "10.0.0.0/8", "fd00::/8", or one address. InvalidArgument says what is wrong.
absl::StatusOr<IpNetwork> ParseIpNetwork(absl::string_view text);

// The address in what gRPC calls a peer: "ipv4:192.0.2.7:40000", "ipv6:%5B::1%5D:40000". nullopt
// for any other kind of peer.
std::optional<IpAddress> PeerAddress(absl::string_view peer);

// 127.0.0.0/8, ::1 and "localhost": only this machine reaches it.
bool IsLoopbackHost(absl::string_view host);

}  // namespace kvasir
