// A pool with one attention layer's K, V, key columns and sums for a few long sequences, filled with noise: what
// SparQ's measurements run on. The values decide only which rows are picked; noise picks scattered rows, which is
// the hard case for memory.
//
// Not thread safe.
#pragma once

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kvcache/kv_arena.h"
#include "runtime/ops/tensor.h"

namespace kvasir::bench {

struct AttentionShape {
  const char* name;
  int query_heads, kv_heads, dim;
};

class SparqPool {
 public:
  // bf16 K and V. As many sequences of `positions` tokens as it takes for a sparse pass over all of them to leave
  // nothing of the first in a cache; up to 16.
  SparqPool(const AttentionShape& shape, int positions, int block_tokens, SparqKeys keys);

  const KvLayout& layout() const { return arena_->layout(); }
  KvView view() const { return arena_->View(0); }
  int num_sequences() const { return num_sequences_; }
  absl::Span<const BlockId> blocks(int sequence) const;
  // One query row, [1, query_heads * dim].
  MatrixView queries() const;

 private:
  int num_sequences_ = 0;
  int blocks_each_ = 0;
  std::unique_ptr<KvArena> arena_;
  std::vector<BlockId> table_;  // shuffled, as after hours of service
  std::vector<float> queries_;
};

}  // namespace kvasir::bench
