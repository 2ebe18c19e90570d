// One sequence's lists of blocks, one list per group of block-holding layers: logical block i
// (positions [i * block_tokens, (i + 1) * block_tokens)) lies in pool block blocks(group)[i]. In a
// windowed group the blocks behind the window are given back as the sequence goes on: kNoBlock
// stands in their place. With state layers there is a slot too, which holds their state behind
// position num_tokens() - 1.
//
// Owns one reference to each of its blocks and gives them back when destroyed, cleared or assigned
// to: a sequence that ends in any way, error and cancellation included, frees its memory by leaving
// scope. Move-only; sharing goes through KvCacheManager::Fork. The manager must outlive every table
// that is not empty. Not thread safe: belongs to the engine thread, like the manager. Knows nothing
// of contents (kv_arena.h).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kvcache/block_hash.h"
#include "kvcache/kv_view.h"

namespace kvasir {

class KvCacheManager;

class BlockTable {
 public:
  // Holds nothing and belongs to no manager: a place to move a table into.
  BlockTable() = default;
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&& other) noexcept;
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;
  ~BlockTable();

  // Gives every reference back; the table can be filled again.
  void Clear();

  // [blocks of positions, kNoBlock where given back]. May reach further than num_tokens(): blocks
  // reserved for positions not computed yet. Changed by Commit too (a block found to be cached
  // already is swapped for the cached one), so read it anew each step.
  absl::Span<const BlockId> blocks(int group) const {
    return lists_.empty() ? absl::Span<const BlockId>() : lists_[group];
  }
  // All of them, for a step. [block groups]; none in a table that was moved from.
  absl::Span<const std::vector<BlockId>> lists() const { return lists_; }
  // Blocks that are held, in all groups; the slot not counted.
  int num_blocks() const;
  // The block of the state group that holds the state, or kNoBlock: without state layers, or empty.
  BlockId state_slot() const { return state_slot_; }

  // Bytes of all that is held, shared or not.
  int64_t held_bytes() const { return held_bytes_; }
  // Of those, the state's.
  int64_t state_bytes() const { return state_bytes_; }

  // Positions [0, num_tokens) hold valid K and V ("computed").
  int num_tokens() const { return num_tokens_; }
  bool empty() const { return num_tokens_ == 0 && held_bytes_ == 0; }

 private:
  friend class KvCacheManager;
  BlockTable(KvCacheManager* manager, uint64_t account, int num_block_groups)
      : manager_(manager),
        account_(account),
        lists_(num_block_groups),
        first_held_(num_block_groups) {}

  KvCacheManager* manager_ = nullptr;
  uint64_t account_ = 0;  // whose live blocks these are; see KvCacheManager::live_bytes
  std::vector<std::vector<BlockId>> lists_;  // [block groups], equally long
  std::vector<int> first_held_;              // [block groups]: blocks before it are given back
  BlockId state_slot_ = kNoBlock;
  int64_t held_bytes_ = 0;
  int64_t state_bytes_ = 0;
  int num_tokens_ = 0;
  // The names of the first full blocks: as many as are, or could be, in the prefix cache.
  std::vector<BlockDigest> digests_;
};

}  // namespace kvasir
