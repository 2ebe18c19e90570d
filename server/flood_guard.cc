#include "server/flood_guard.h"

#include <linux/tcp.h>  // netinet/tcp.h has no tcpi_bytes_received
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "runtime/base/cpu_topology.h"
#include "server/heap_usage.h"

namespace kvasir {
namespace {

// The heap is looked at after growth of this much.
constexpr int64_t kGrowthBytes = int64_t{16} << 20;

// Least bytes between two looks that make a connection a suspect: 2 MB/s.
constexpr uint64_t kSuspectBytes = 512 << 10;

// After a connection was ended: what it held is freed within a second.
constexpr int kLooksUntilFreed = 4;

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

int FloodGuard::Look(const std::unordered_set<int>& open) {
  if (limit_bytes_ == kNoLimit) return -1;
  if (looks_to_skip_ > 0) {
    --looks_to_skip_;
    return -1;
  }
  const auto resident_bytes = static_cast<int64_t>(ResidentMemoryBytes());
  if (!alarmed_ && resident_bytes < calm_resident_bytes_ + kGrowthBytes) {
    calm_resident_bytes_ = std::min(calm_resident_bytes_, resident_bytes);
    return -1;
  }
  if (HeapUsedBytes() - heap_at_start_bytes_ <= limit_bytes_) {
    calm_resident_bytes_ = resident_bytes;
    alarmed_ = false;
    received_.clear();
    return -1;
  }
  int greediest = -1;
  uint64_t most = kSuspectBytes;
  std::unordered_map<int, uint64_t> received;
  for (const int socket : open) {
    const uint64_t now = BytesReceived(socket);
    received[socket] = now;
    if (!alarmed_) continue;  // nothing to compare with yet
    const auto before = received_.find(socket);
    // A descriptor that was reused begins anew.
    const uint64_t since =
        before == received_.end() || before->second > now ? now : now - before->second;
    if (since < most) continue;
    greediest = socket;
    most = since;
  }
  alarmed_ = true;
  received_ = std::move(received);
  if (greediest >= 0) looks_to_skip_ = kLooksUntilFreed;
  return greediest;
}

}  // namespace kvasir
