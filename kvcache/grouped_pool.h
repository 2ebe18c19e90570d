// The blocks of all groups under one budget of bytes: what is live, cached or free, who pays for
// it, under which name it is found, and whose memory it has.
//
// A group's block costs its block_bytes wherever it lies, so any group can use what another has
// given up: free memory of one group is handed back to the system before another touches more than
// the budget allows (KvArena::Discard). There is no fixed partition and, but for less than one
// block, no waste. When nothing is free, cached blocks go, the least recently used of all groups
// first.
//
//   live + cached + free = capacity, in bytes, at all times
//   memory touched and not handed back <= capacity, counted in whole blocks
//
// Owned by KvCacheManager, which decides what becomes cached. Not thread safe. O(1) per block, but
// for evictions and hand-backs, each paid for by an earlier Take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvcache/block_pool.h"
#include "kvcache/kv_arena.h"
#include "kvcache/prefix_cache.h"

namespace kvasir {

// Bytes of one of a group's blocks on disk: its K/V part, or all of a state.
inline size_t StoredBytes(const KvLayout& layout, int group) {
  const KvGroup& of = layout.group(group);
  return of.kind == KvGroupKind::kState ? of.block_bytes : of.kv_part_bytes;
}

// Where blocks can go that the prefix cache gives up because their bytes are wanted.
class EvictedBlocks {
 public:
  virtual ~EvictedBlocks() = default;
  // `content`: StoredBytes of the block; not there any more after the
  // call. Must be quick.
  virtual void Take(int group, const BlockDigest& digest, const BlockDigest& parent,
                    absl::Span<const int32_t> tokens, absl::Span<const uint8_t> content) = 0;
};

class GroupedPool {
 public:
  struct Options {
    // Tests: a block that is taken holds NaN (every byte 0xFF), and so does a free one, so that
    // reading a position nobody wrote shows at once.
    bool poison = false;
    // A block is zeroed when its content is given up, so that one tenant's K/V never lies in memory
    // handed to another.
    bool scrub = false;
    // May be null; outlives the pool.
    EvictedBlocks* evicted = nullptr;
  };
  GroupedPool(std::unique_ptr<KvArena> arena, const Options& options);

  KvArena* arena() { return arena_.get(); }
  const KvArena* arena() const { return arena_.get(); }

  // A block with one reference, live for `account`; evicts if need be. Its bytes must be available.
  BlockId Take(int group, uint64_t account);
  // One reference more; a cached block becomes live for `account`.
  void Ref(int group, BlockId block, uint64_t account);
  // One reference less. At zero the block stays cached if it has a name, else it is free.
  void Release(int group, BlockId block);
  // The least recently used cached block of this group becomes free; there must be one.
  void Evict(int group);
  // All cached blocks become free, the newest of up to most_bytes by eviction. Live ones keep
  // their names.
  void EvictAll(int64_t most_bytes);

  // The names of a group's blocks. A block without references has one exactly if it is cached, so
  // erase those of live blocks only.
  PrefixCache& names(int group) { return groups_[group].names; }
  const PrefixCache& names(int group) const { return groups_[group].names; }

  int ref_count(int group, BlockId block) const { return groups_[group].blocks.ref_count(block); }
  int num_live(int group) const { return groups_[group].blocks.num_live(); }
  int num_cached(int group) const { return groups_[group].blocks.num_cached(); }

  int64_t capacity_bytes() const { return arena_->capacity_bytes(); }
  int64_t live_bytes() const { return live_bytes_; }
  int64_t cached_bytes() const { return cached_bytes_; }
  // What can be taken: free and cached.
  int64_t available_bytes() const { return capacity_bytes() - live_bytes_; }
  // Of blocks that have memory: live, cached, and free ones not handed back.
  int64_t resident_bytes() const { return resident_bytes_; }
  // Live blocks that were taken, or made live, for `account`.
  int64_t live_bytes(uint64_t account) const {
    const auto found = account_bytes_.find(account);
    return found == account_bytes_.end() ? 0 : found->second;
  }
  int64_t evictions() const { return evictions_; }

 private:
  struct Group {
    BlockPool blocks;
    PrefixCache names;
    std::vector<uint64_t> accounts;  // [num_blocks], of live blocks
    int64_t block_bytes = 0;
  };

  // The group whose oldest cached block is the oldest of all; there must be one.
  int OldestGroup() const;
  void EvictOldest();
  void HandBackMemory();
  void FreeCached(int group);
  void BookLive(int group, BlockId block, uint64_t account);
  void EraseContent(int group, BlockId block);  // poison or scrub, as configured

  const std::unique_ptr<KvArena> arena_;
  const bool poison_;
  const bool scrub_;
  EvictedBlocks* const evicted_;
  std::vector<Group> groups_;                             // [num_groups]
  absl::flat_hash_map<uint64_t, int64_t> account_bytes_;  // none is 0
  int64_t live_bytes_ = 0;
  int64_t cached_bytes_ = 0;
  int64_t resident_bytes_ = 0;
  int64_t evictions_ = 0;
  uint64_t moment_ = 0;  // counts blocks that became cached
};

}  // namespace kvasir
