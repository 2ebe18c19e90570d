#include "server/grpc/flood_guard.h"

#include <linux/tcp.h>  // netinet/tcp.h has no tcpi_bytes_received
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "base/cpu_topology.h"
#include "server/telemetry/heap_usage.h"

namespace kvasir {
namespace {

// The heap is looked at after growth of this much.
constexpr int64_t kGrowthBytes = int64_t{16} << 20;

// Least bytes between two looks that make a connection a suspect: 64 KB/s. Prompts as text come
// slower; a thousand connections that share a flood do not.
constexpr uint64_t kSuspectBytes = 16 << 10;

// After connections were ended: what they held is freed within a second.
constexpr int kLooksUntilFreed = 4;

// Another flood within half a minute belongs to the one before.
constexpr int kLooksUntilTrusting = 120;

uint64_t BytesReceived(int socket) {
  tcp_info info = {};
  socklen_t size = sizeof info;
  if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
  return info.tcpi_bytes_received;
}

}  // namespace

FloodGuard::FloodGuard(int64_t limit_bytes)
    : limit_bytes_(limit_bytes),
      heap_at_start_bytes_(HeapUsedBytes()),
      calm_resident_bytes_(static_cast<int64_t>(ResidentMemoryBytes())) {}

std::vector<int> FloodGuard::Look(const std::unordered_set<int>& open) {
  if (limit_bytes_ == kNoLimit) return {};
  if (looks_until_trusting_ > 0) --looks_until_trusting_;
  if (looks_to_skip_ > 0) {
    --looks_to_skip_;
    return {};
  }
  const auto resident_bytes = static_cast<int64_t>(ResidentMemoryBytes());
  if (!alarmed_ && resident_bytes < calm_resident_bytes_ + kGrowthBytes) {
    calm_resident_bytes_ = std::min(calm_resident_bytes_, resident_bytes);
    return {};
  }
  if (HeapUsedBytes() - heap_at_start_bytes_ <= limit_bytes_) {
    calm_resident_bytes_ = resident_bytes;
    alarmed_ = false;
    received_.clear();
    return {};
  }
  std::unordered_map<int, uint64_t> received;
  for (const int socket : open) received[socket] = BytesReceived(socket);
  std::vector<int> to_end;
  if (alarmed_) to_end = Suspects(received);
  alarmed_ = true;
  received_ = std::move(received);
  if (to_end.empty()) return to_end;
  if (looks_until_trusting_ == 0) to_end.resize(1);
  looks_until_trusting_ = kLooksUntilTrusting;
  looks_to_skip_ = kLooksUntilFreed;
  return to_end;
}

std::vector<int> FloodGuard::Suspects(const std::unordered_map<int, uint64_t>& received) const {
  std::vector<std::pair<uint64_t, int>> suspects;  // bytes since the last look, socket
  for (const auto& [socket, now] : received) {
    const auto before = received_.find(socket);
    // A descriptor that was reused begins anew.
    const uint64_t since =
        before == received_.end() || before->second > now ? now : now - before->second;
    if (since >= kSuspectBytes) suspects.emplace_back(since, socket);
  }
  std::sort(suspects.rbegin(), suspects.rend());
  std::vector<int> sockets;
  sockets.reserve(suspects.size());
  for (const auto& [since, socket] : suspects) sockets.push_back(socket);
  return sockets;
}

}  // namespace kvasir
