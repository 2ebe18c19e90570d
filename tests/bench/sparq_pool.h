// A pool with K, V, key columns and sums of a few long sequences, filled with noise: what SparQ's
// measurements run on, without the prefill that would have made them. The values decide only which
// rows are picked; noise picks scattered rows, which is the hard case for memory.
//
// Immutable but for what a model under measurement writes through arena(). Not thread safe.
#pragma once

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kvcache/kv_arena.h"

namespace kvasir::bench {

class SparqPool {
 public:
  // bf16 K and V of every owner layer. Ends the program when the memory is refused.
  SparqPool(const KvLayout& layout, int positions, int num_sequences);

  // So many sequences that a sparse pass over all of them leaves nothing of the first in a cache.
  static int ColdSequences(const KvLayout& layout, int positions);

  const KvLayout& layout() const { return arena_->layout(); }
  KvArena* arena() { return arena_.get(); }
  KvView view(int layer = 0) const { return arena_->View(layer); }
  int num_sequences() const { return num_sequences_; }
  absl::Span<const BlockId> blocks(int sequence) const;

 private:
  void FillWithNoise();

  const int num_sequences_;
  int blocks_each_ = 0;
  std::unique_ptr<KvArena> arena_;
  std::vector<BlockId> table_;  // shuffled, as after hours of service
};

}  // namespace kvasir::bench
