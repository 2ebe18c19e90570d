// EngineStats as of the latest step, for whoever asks in between. One thread sets; any thread gets,
// without a lock.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <tuple>

#include "absl/base/casts.h"
#include "runtime/engine/engine.h"

namespace kvasir {

class PublishedStats {
 public:
  void Set(const EngineStats& stats) {
    const Words words = absl::bit_cast<Words>(stats);
    for (size_t i = 0; i < words.size(); ++i) {
      values_[i].store(words[i], std::memory_order_relaxed);
    }
  }
  EngineStats Get() const {
    Words words;
    for (size_t i = 0; i < words.size(); ++i) {
      words[i] = values_[i].load(std::memory_order_relaxed);
    }
    EngineStats stats = absl::bit_cast<EngineStats>(words);
    // Read one by one, so a step may fall between two: free is derived, and the sum always holds.
    stats.kv_cached_bytes =
        std::min(stats.kv_cached_bytes, stats.kv_capacity_bytes - stats.kv_live_bytes);
    stats.kv_free_bytes = stats.kv_capacity_bytes - stats.kv_live_bytes - stats.kv_cached_bytes;
    return stats;
  }

 private:
  // All of the struct, so that none can be forgotten: it holds nothing but 64-bit numbers.
  using Words = std::array<int64_t, sizeof(EngineStats) / sizeof(int64_t)>;
  static_assert(sizeof(Words) == sizeof(EngineStats));

  std::array<std::atomic<int64_t>, std::tuple_size_v<Words>> values_ = {};
};

}  // namespace kvasir
