#include "kvcache/grouped_pool.h"

#include <utility>

#include "base/check.h"

namespace kvasir {

GroupedPool::GroupedPool(std::unique_ptr<KvArena> arena, const Options& options)
    : arena_(std::move(arena)),
      poison_(options.poison),
      scrub_(options.scrub),
      evicted_(options.evicted) {
  const KvLayout& layout = arena_->layout();
  groups_.reserve(layout.num_groups());
  for (int group = 0; group < layout.num_groups(); ++group) {
    const int num_blocks = arena_->num_blocks(group);
    groups_.push_back(Group{BlockPool(num_blocks), PrefixCache(num_blocks, layout.block_tokens()),
                            std::vector<uint64_t>(num_blocks),
                            static_cast<int64_t>(arena_->block_bytes(group))});
  }
}

BlockId GroupedPool::Take(int index, uint64_t account) {
  Group& group = groups_[index];
  KVASIR_CHECK(available_bytes() >= group.block_bytes);
  while (available_bytes() - cached_bytes_ < group.block_bytes) EvictOldest();
  if (group.blocks.num_free() == 0) {
    while (resident_bytes_ + group.block_bytes > capacity_bytes()) HandBackMemory();
    const BlockId filled = group.blocks.Fill();
    resident_bytes_ += group.block_bytes;
    if (poison_) arena_->PoisonBlock(index, filled);
  }
  const BlockId block = group.blocks.Take();
  BookLive(index, block, account);
  return block;
}

void GroupedPool::Ref(int index, BlockId block, uint64_t account) {
  Group& group = groups_[index];
  if (group.blocks.is_cached(block)) {
    cached_bytes_ -= group.block_bytes;
    BookLive(index, block, account);
  }
  group.blocks.Ref(block);
}

void GroupedPool::Release(int index, BlockId block) {
  Group& group = groups_[index];
  const bool keep_cached = group.names.Contains(block);
  if (!group.blocks.Unref(block, keep_cached, moment_)) return;
  live_bytes_ -= group.block_bytes;
  const auto paid = account_bytes_.find(group.accounts[block]);
  if ((paid->second -= group.block_bytes) == 0) account_bytes_.erase(paid);
  if (keep_cached) {
    ++moment_;
    cached_bytes_ += group.block_bytes;
  } else {
    EraseContent(index, block);
  }
}

void GroupedPool::Evict(int index) {
  if (evicted_ != nullptr) {
    const Group& group = groups_[index];
    const BlockId block = group.blocks.oldest_cached();
    const KvArena& arena = *arena_;
    evicted_->Take(index, group.names.digest(block), group.names.parent(block),
                   group.names.tokens(block),
                   arena.Block(index, block).first(StoredBytes(arena.layout(), index)));
  }
  FreeCached(index);
  ++evictions_;
}

void GroupedPool::EvictAll(int64_t most_bytes) {
  while (cached_bytes_ > most_bytes) FreeCached(OldestGroup());
  while (cached_bytes_ > 0) EvictOldest();
}

void GroupedPool::EvictOldest() { Evict(OldestGroup()); }

int GroupedPool::OldestGroup() const {
  int oldest = -1;
  for (size_t i = 0; i < groups_.size(); ++i) {
    const BlockPool& blocks = groups_[i].blocks;
    if (blocks.num_cached() == 0) continue;
    if (oldest < 0 || blocks.oldest_moment() < groups_[oldest].blocks.oldest_moment())
      oldest = static_cast<int>(i);
  }
  return oldest;
}

// The group that wants memory has no free block, so it loses none.
void GroupedPool::HandBackMemory() {
  Group* richest = nullptr;
  for (Group& group : groups_) {
    const int64_t free_bytes = group.blocks.num_free() * group.block_bytes;
    if (free_bytes == 0) continue;
    if (richest == nullptr || free_bytes > richest->blocks.num_free() * richest->block_bytes)
      richest = &group;
  }
  KVASIR_CHECK(richest != nullptr);
  arena_->Discard(static_cast<int>(richest - groups_.data()), richest->blocks.Vacate());
  resident_bytes_ -= richest->block_bytes;
}

void GroupedPool::FreeCached(int index) {
  Group& group = groups_[index];
  const BlockId block = group.blocks.oldest_cached();
  group.names.Erase(block);
  group.blocks.Uncache(block);
  cached_bytes_ -= group.block_bytes;
  EraseContent(index, block);
}

void GroupedPool::BookLive(int index, BlockId block, uint64_t account) {
  Group& group = groups_[index];
  group.accounts[block] = account;
  account_bytes_[account] += group.block_bytes;
  live_bytes_ += group.block_bytes;
}

void GroupedPool::EraseContent(int group, BlockId block) {
  if (poison_) {
    arena_->PoisonBlock(group, block);
  } else if (scrub_) {
    arena_->ScrubBlock(group, block);
  }
}

}  // namespace kvasir
