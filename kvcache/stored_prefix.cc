// KvCacheManager and blocks that are stored elsewhere: what of a prompt would have to be read,
// memory for it, and its names once it is there.
#include <utility>

#include "base/check.h"
#include "kvcache/kv_cache_manager.h"

namespace kvasir {

template <typename Visit>
void KvCacheManager::ForEachNeeded(const Prefix& prefix, Visit visit) const {
  for (int i = 0; i < prefix.num_blocks; ++i) {
    for (int g = 0; g < layout().num_block_groups(); ++g) {
      if (i >= FirstHeld(prefix, g)) visit(g, i, prefix.lists[g][i]);
    }
  }
  if (layout().has_state() && prefix.num_blocks > 0)
    visit(layout().state_group(), prefix.num_blocks - 1, prefix.snapshot);
}

int64_t KvCacheManager::PeekStored(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                   int max_tokens, IsStored is_stored) const {
  int64_t bytes = 0;
  ForEachNeeded(FindPrefix(scope, tokens, max_tokens, &is_stored),
                [&](int group, int, BlockId block) {
                  if (block == kStored) bytes += static_cast<int64_t>(arena()->block_bytes(group));
                });
  return bytes;
}

std::vector<KvCacheManager::StoredBlock> KvCacheManager::ReserveStored(
    const PrefixScope& scope, absl::Span<const int32_t> tokens, int max_tokens, IsStored is_stored,
    BlockTable* table) {
  KVASIR_CHECK(table->manager_ == this && table->empty());
  const Prefix prefix = FindPrefix(scope, tokens, max_tokens, &is_stored);
  int64_t needed_bytes = 0;
  ForEachNeeded(prefix, [&](int group, int, BlockId block) {
    // A cached block that is held is no longer there to be taken.
    if (block == kStored || pool_.ref_count(group, block) == 0)
      needed_bytes += static_cast<int64_t>(arena()->block_bytes(group));
  });
  if (needed_bytes > available_bytes()) return {};

  for (int g = 0; g < layout().num_block_groups(); ++g) {
    table->first_held_[g] = FirstHeld(prefix, g);
    table->lists_[g].assign(prefix.num_blocks, kNoBlock);
  }
  const auto place = [&](int group, int index) -> BlockId& {
    return group < layout().num_block_groups() ? table->lists_[group][index] : table->state_slot_;
  };
  // What is in the pool first: taking blocks must not evict it.
  ForEachNeeded(prefix, [&](int group, int index, BlockId block) {
    if (block == kStored) return;
    pool_.Ref(group, block, table->account_);
    place(group, index) = block;
  });
  std::vector<StoredBlock> wanted;
  ForEachNeeded(prefix, [&](int group, int index, BlockId block) {
    const auto block_bytes = static_cast<int64_t>(arena()->block_bytes(group));
    table->held_bytes_ += block_bytes;
    if (group == layout().num_block_groups()) table->state_bytes_ = block_bytes;
    if (block != kStored) return;
    const BlockId taken = place(group, index) = pool_.Take(group, table->account_);
    const auto ids = tokens.subspan(static_cast<size_t>(index) * block_tokens_, block_tokens_);
    wanted.push_back({.group = group,
                      .index = index,
                      .digest = prefix.digests[index],
                      .parent = index == 0 ? hasher_.Root(scope) : prefix.digests[index - 1],
                      .tokens = {ids.begin(), ids.end()},
                      .block = taken,
                      .content = arena()->Block(group, taken).first(StoredBytes(layout(), group))});
  });
  return wanted;
}

void KvCacheManager::FileStored(absl::Span<const StoredBlock> filled, BlockTable* table) {
  KVASIR_CHECK(table->manager_ == this);
  for (const StoredBlock& block : filled) {
    // Somebody may have computed it meanwhile: then that one stays, and this one becomes free.
    const bool named =
        pool_.names(block.group).Insert(block.block, block.digest, block.parent, block.tokens);
    if (named && block.group == 0 && prefix_events_ != nullptr) {
      prefix_events_->Stored(block.digest, block.index == 0 ? nullptr : &block.parent,
                             block.tokens);
    }
  }
  table->Clear();
}

}  // namespace kvasir
