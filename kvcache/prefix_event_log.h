// What the prefix cache learned and forgot lately, for routers that send a prompt to the replica
// that holds its beginning. The newest events of a bounded number; readers that come too late are
// told so.
//
// Written by the engine thread, read by any: thread safe. A full block is one event, some hundred
// bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "kvcache/block_hash.h"

namespace kvasir {

struct PrefixEvent {
  uint64_t sequence = 0;           // 1, 2, ... over the log's life
  bool stored = true;              // else: no longer findable
  uint64_t block = 0;              // half of its digest; tells contents apart, not places
  std::optional<uint64_t> parent;  // stored: the block before it; none: the prompt's first
  std::vector<int32_t> tokens;     // stored: [block_tokens]
};

class PrefixEventLog {
 public:
  explicit PrefixEventLog(size_t max_events = 8192) : max_events_(max_events) {}

  // `parent`: null for a prompt's first block. `tokens`: [block_tokens]
  void Stored(const BlockDigest& block, const BlockDigest* parent, absl::Span<const int32_t> tokens)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Removed(const BlockDigest& block) ABSL_LOCKS_EXCLUDED(mutex_);

  // The first events from `sequence` on, at most `limit`. `*lost`: some of them are forgotten.
  std::vector<PrefixEvent> Read(uint64_t sequence, size_t limit, bool* lost) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Of the event that comes next.
  uint64_t next_sequence() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Add(PrefixEvent event) ABSL_LOCKS_EXCLUDED(mutex_);

  const size_t max_events_;
  mutable absl::Mutex mutex_;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::deque<PrefixEvent> events_ ABSL_GUARDED_BY(mutex_);  // of sequences up to next_
};

}  // namespace kvasir
