// One sequence's list of blocks: logical block i (positions [i * block_tokens, (i+1) *
// block_tokens)) lies in pool block blocks()[i].
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

  // [num_blocks]. May reach further than num_tokens(): blocks reserved for positions not computed
  // yet. Changed by Commit too (a block found to be cached already is swapped for the cached one),
  // so read it anew each step.
  absl::Span<const BlockId> blocks() const { return blocks_; }
  int num_blocks() const { return static_cast<int>(blocks_.size()); }

  // Positions [0, num_tokens) hold valid K and V ("computed").
  int num_tokens() const { return num_tokens_; }
  bool empty() const { return blocks_.empty(); }

 private:
  friend class KvCacheManager;
  BlockTable(KvCacheManager* manager, uint64_t account) : manager_(manager), account_(account) {}

  KvCacheManager* manager_ = nullptr;
  uint64_t account_ = 0;  // whose live blocks these are; see KvCacheManager::live_blocks
  std::vector<BlockId> blocks_;
  int num_tokens_ = 0;
};

}  // namespace kvasir
