// Which connections to end when what peers send outgrows the memory that is there for it.
//
// gRPC 1.51 bounds the metadata of each HTTP/2 frame, not of a call: HEADERS without an end and
// CONTINUATION frames after it fill the heap as fast as the network brings them, before anybody is
// asked for a credential, and outside of gRPC's own memory quota. So this watches the heap itself.
// While it holds more than `limit_bytes` above what it held at the start, the connection that
// received most since the last look is to go. If that was not all of the flood, everybody who
// receives more than a little is: of those that share one, each looks harmless.
//
// A look costs a read of /proc while the process does not grow. Used by one thread.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace kvasir {

class FloodGuard {
 public:
  static constexpr int64_t kNoLimit = INT64_MAX;
  // How often to look. A flood brings some 50 MB in that time.
  static constexpr int kLookMilliseconds = 250;

  explicit FloodGuard(int64_t limit_bytes);

  // Those of these TCP sockets to end; mostly none. Two looks are needed to find them.
  std::vector<int> Look(const std::unordered_set<int>& open);

 private:
  // Those that received more than a little since the last look, the greediest first.
  std::vector<int> Suspects(const std::unordered_map<int, uint64_t>& received) const;

  const int64_t limit_bytes_;
  const int64_t heap_at_start_bytes_;
  int64_t calm_resident_bytes_;  // at the last look that found the heap small, or less
  int looks_to_skip_ = 0;
  int looks_until_trusting_ = 0;  // until then everybody suspect goes at once
  // While the heap is too large, bytes received by each connection, at the last look.
  bool alarmed_ = false;
  std::unordered_map<int, uint64_t> received_;
};

}  // namespace kvasir
