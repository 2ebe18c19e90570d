// The names of one group's blocks: finds the block that holds given tokens after a given prefix, or
// the state behind them. Content addressed: a full block is
// filed under the chained digest of everything up to its end (block_hash.h), and a hit counts only
// if parent digest and token ids are equal, so that a hash collision can cost a miss but never a
// wrong answer.
//
// Erasing a block whose descendants are filed leaves those unreachable (a search stops at the gap),
// never wrong; they become reachable again when the gap is computed anew, since the digest is the
// same.
//
// Remembers block ids only; whether a block may be reused or evicted is the manager's to know.
// Owned by GroupedPool. Not thread safe. O(block_tokens) per call; allocates only in the
// constructor (the table may rehash in place). Holds 4 * block_tokens + 49 bytes per block of the
// pool, and the table.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "kvcache/block_hash.h"
#include "kvcache/block_pool.h"
#include "kvcache/kv_view.h"
#include "kvcache/prefix_event_log.h"

namespace kvasir {

class PrefixCache {
 public:
  PrefixCache(int num_blocks, int block_tokens);

  // From now on erasures are told to `log`, which outlives this. Once.
  void TellErasures(PrefixEventLog* log) { log_ = log; }

  // The block filed under `digest`, the digest of `tokens` behind `parent`
  // (BlockHasher), or kNoBlock.
  BlockId Find(const BlockDigest& digest, const BlockDigest& parent,
               absl::Span<const int32_t> tokens) const;

  // Files `block`, which must not be filed yet. False, and nothing done, if something else has the
  // digest.
  bool Insert(BlockId block, const BlockDigest& digest, const BlockDigest& parent,
              absl::Span<const int32_t> tokens);

  // `block` must be filed.
  void Erase(BlockId block);

  bool Contains(BlockId block) const { return entries_[block].filed; }
  // Of a filed block.
  const BlockDigest& digest(BlockId block) const;
  const BlockDigest& parent(BlockId block) const;
  absl::Span<const int32_t> tokens(BlockId block) const;  // [block_tokens]

  int64_t num_filed() const { return static_cast<int64_t>(blocks_.size()); }

 private:
  struct Entry {
    BlockDigest digest;
    BlockDigest parent;
    bool filed = false;
  };

  int block_tokens_;
  PrefixEventLog* log_ = nullptr;  // may be null
  absl::flat_hash_map<BlockDigest, BlockId> blocks_;
  std::vector<Entry> entries_;   // [num_blocks]
  std::vector<int32_t> tokens_;  // [num_blocks, block_tokens], valid where filed
};

}  // namespace kvasir
