#include "kvcache/prefix_event_log.h"

#include <utility>

namespace kvasir {

void PrefixEventLog::Stored(const BlockDigest& block, const BlockDigest* parent,
                            absl::Span<const int32_t> tokens) {
  PrefixEvent event;
  event.block = block.words[0];
  if (parent != nullptr) event.parent = parent->words[0];
  event.tokens.assign(tokens.begin(), tokens.end());
  Add(std::move(event));
}

void PrefixEventLog::Removed(const BlockDigest& block) {
  PrefixEvent event;
  event.stored = false;
  event.block = block.words[0];
  Add(std::move(event));
}

void PrefixEventLog::Add(PrefixEvent event) {
  absl::MutexLock lock(&mutex_);
  event.sequence = next_++;
  if (events_.size() == max_events_) events_.pop_front();
  events_.push_back(std::move(event));
}

std::vector<PrefixEvent> PrefixEventLog::Read(uint64_t sequence, size_t limit, bool* lost) const {
  absl::MutexLock lock(&mutex_);
  const uint64_t oldest = next_ - events_.size();
  *lost = sequence < oldest;
  std::vector<PrefixEvent> read;
  for (size_t i = *lost ? 0 : sequence - oldest; i < events_.size() && read.size() < limit; ++i) {
    read.push_back(events_[i]);
  }
  return read;
}

uint64_t PrefixEventLog::next_sequence() const {
  absl::MutexLock lock(&mutex_);
  return next_;
}

}  // namespace kvasir
