#include "kvcache/kv_cache_manager.h"

#include <openssl/rand.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace kvasir {

absl::StatusOr<std::unique_ptr<KvCacheManager>> KvCacheManager::Create(KvLayout layout,
                                                                       KvCacheConfig config) {
  auto arena = KvArena::Create(std::move(layout), config.capacity_bytes, config.huge_pages);
  if (!arena.ok()) return arena.status();
  if (config.hash_key == decltype(config.hash_key){} &&
      RAND_bytes(config.hash_key.data(), static_cast<int>(config.hash_key.size())) != 1) {
    return absl::UnavailableError(
        "KV cache: the system has no randomness for the prefix cache's key; pass hash_key");
  }
  return std::unique_ptr<KvCacheManager>(new KvCacheManager(*std::move(arena), config));
}

KvCacheManager::KvCacheManager(std::unique_ptr<KvArena> arena, const KvCacheConfig& config)
    : block_tokens_(arena->layout().block_tokens()),
      enable_prefix_cache_(config.enable_prefix_cache),
      snapshot_interval_tokens_(
          arena->layout().has_state() && enable_prefix_cache_ && config.max_snapshots > 0
              ? arena->layout().BlocksFor(config.snapshot_interval_tokens) * block_tokens_
              : 0),
      max_snapshots_(config.max_snapshots),
      prefix_events_(config.prefix_events),
      pool_(std::move(arena), {.poison = config.poison_free_blocks,
                               .scrub = config.scrub_freed_blocks,
                               .evicted = config.evicted}),
      hasher_(config.hash_key) {
  if (prefix_events_ != nullptr) pool_.names(0).TellErasures(prefix_events_);
}

KvCacheManager::~KvCacheManager() { KVASIR_CHECK(pool_.live_bytes() == 0); }

// ---- reuse ----

KvCacheManager::Prefix KvCacheManager::FindPrefix(const PrefixScope& scope,
                                                  absl::Span<const int32_t> tokens, int max_tokens,
                                                  const IsStored* is_stored) const {
  const KvLayout& layout = this->layout();
  const int num_groups = layout.num_block_groups();
  Prefix prefix;
  prefix.lists.resize(num_groups);
  const int64_t limit = std::min<int64_t>(max_tokens, tokens.size());
  if (!enable_prefix_cache_ || limit < block_tokens_) return prefix;
  const auto find = [&](int group, const BlockDigest& digest, const BlockDigest& parent,
                        absl::Span<const int32_t> block_tokens) {
    const BlockId block = pool_.names(group).Find(digest, parent, block_tokens);
    const bool stored = block == kNoBlock && is_stored != nullptr && (*is_stored)(group, digest);
    return stored ? kStored : block;
  };
  std::vector<int> in_a_row(num_groups, 0);  // blocks found, up to the newest looked for
  BlockDigest parent = hasher_.Root(scope);
  for (int i = 0; (i + int64_t{1}) * block_tokens_ <= limit; ++i) {
    const auto block_tokens = tokens.subspan(static_cast<size_t>(i) * block_tokens_, block_tokens_);
    const BlockDigest digest = hasher_.Child(parent, block_tokens);
    const int end_tokens = (i + 1) * block_tokens_;
    bool complete = true;
    for (int g = 0; g < num_groups; ++g) {
      const BlockId block = find(g, digest, parent, block_tokens);
      if (block == kNoBlock && layout.group(g).kind == KvGroupKind::kFull) return prefix;
      prefix.lists[g].push_back(block);
      in_a_row[g] = block == kNoBlock ? 0 : in_a_row[g] + 1;
      complete &= in_a_row[g] >= i + 1 - layout.FirstNeededBlock(g, end_tokens);
    }
    prefix.digests.push_back(digest);
    BlockId snapshot = kNoBlock;
    if (layout.has_state()) {
      snapshot = find(layout.state_group(), digest, parent, block_tokens);
      complete &= snapshot != kNoBlock;
    }
    if (complete) {
      prefix.num_blocks = i + 1;
      prefix.snapshot = snapshot;
    }
    parent = digest;
  }
  return prefix;
}

int KvCacheManager::AttachPrefix(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                 int max_tokens, BlockTable* table) {
  KVASIR_CHECK(table->manager_ == this && table->empty());
  prefix_queries_tokens_ += enable_prefix_cache_ ? static_cast<int64_t>(tokens.size()) : 0;
  Prefix prefix = FindPrefix(scope, tokens, max_tokens);
  if (prefix.num_blocks == 0) return 0;
  table->num_tokens_ = prefix.num_blocks * block_tokens_;
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    table->first_held_[g] = layout().FirstNeededBlock(g, table->num_tokens_);
    table->lists_[g].assign(table->first_held_[g], kNoBlock);
    for (int i = table->first_held_[g]; i < prefix.num_blocks; ++i)
      AppendShared(table, g, prefix.lists[g][i]);
  }
  if (layout().has_state()) {
    pool_.Ref(layout().state_group(), prefix.snapshot, table->account_);
    table->state_slot_ = prefix.snapshot;
    table->state_bytes_ = static_cast<int64_t>(layout().state_bytes_per_sequence());
    table->held_bytes_ += table->state_bytes_;
  }
  prefix.digests.resize(prefix.num_blocks);
  table->digests_ = std::move(prefix.digests);
  prefix_hit_tokens_ += table->num_tokens_;
  return table->num_tokens_;
}

// ---- growth ----

bool KvCacheManager::LastBlockIsShared(const BlockTable& table, int group) const {
  return table.num_tokens_ % block_tokens_ != 0 &&
         pool_.ref_count(group, table.lists_[group][table.num_tokens_ / block_tokens_]) > 1;
}

bool KvCacheManager::NeedsSlot(const BlockTable& table) const {
  if (!layout().has_state()) return false;
  return table.state_slot_ == kNoBlock ||
         pool_.ref_count(layout().state_group(), table.state_slot_) > 1;
}

int64_t KvCacheManager::BytesNeeded(const BlockTable& table, int end_tokens) const {
  if (end_tokens <= table.num_tokens_) return 0;
  int64_t bytes = NeedsSlot(table) ? static_cast<int64_t>(layout().state_bytes_per_sequence()) : 0;
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    const int more =
        std::max(0, layout().BlocksFor(end_tokens) - static_cast<int>(table.lists_[g].size()));
    bytes += (more + (LastBlockIsShared(table, g) ? 1 : 0)) *
             static_cast<int64_t>(layout().group(g).block_bytes);
  }
  return bytes;
}

int64_t KvCacheManager::BytesToReach(const BlockTable& table, int end_tokens,
                                     int step_tokens) const {
  if (end_tokens <= table.num_tokens_) return 0;
  int64_t bytes = NeedsSlot(table) ? static_cast<int64_t>(layout().state_bytes_per_sequence()) : 0;
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    const int held = static_cast<int>(table.lists_[g].size()) - table.first_held_[g];
    const int most = std::min(layout().PeakBlocks(g, end_tokens, step_tokens),
                              layout().BlocksFor(end_tokens) - table.first_held_[g]);
    bytes += (std::max(0, most - held) + (LastBlockIsShared(table, g) ? 1 : 0)) *
             static_cast<int64_t>(layout().group(g).block_bytes);
  }
  return bytes;
}

bool KvCacheManager::Reserve(BlockTable* table, int end_tokens) {
  KVASIR_CHECK(table->manager_ == this);
  if (end_tokens <= table->num_tokens_) return true;
  if (BytesNeeded(*table, end_tokens) > available_bytes()) return false;

  const int num_blocks = layout().BlocksFor(end_tokens);
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    MakeLastBlockWritable(table, g);
    while (static_cast<int>(table->lists_[g].size()) < num_blocks) AppendBlock(table, g);
  }
  if (layout().has_state()) MakeStateWritable(table);
  return true;
}

void KvCacheManager::MakeLastBlockWritable(BlockTable* table, int group) {
  const int filled = table->num_tokens_ % block_tokens_;
  if (filled == 0) return;
  BlockId& last = table->lists_[group][table->num_tokens_ / block_tokens_];
  if (pool_.ref_count(group, last) > 1) {
    const BlockId copy = pool_.Take(group, table->account_);
    pool_.arena()->CopyPositions(group, last, copy, filled);
    pool_.Release(group, last);
    last = copy;
    ++cow_copies_;
  } else if (pool_.names(group).Contains(last)) {
    // Filed when it was full, then truncated by its only holder, which will now overwrite the rest.
    pool_.names(group).Erase(last);
  }
}

void KvCacheManager::MakeStateWritable(BlockTable* table) {
  const int group = layout().state_group();
  const auto slot_bytes = static_cast<int64_t>(layout().state_bytes_per_sequence());
  BlockId& slot = table->state_slot_;
  if (slot == kNoBlock) {
    KVASIR_CHECK(table->num_tokens_ == 0);
    slot = pool_.Take(group, table->account_);
    table->state_bytes_ = slot_bytes;
    table->held_bytes_ += slot_bytes;
    return;
  }
  const bool shared = pool_.ref_count(group, slot) > 1;
  const bool named = pool_.names(group).Contains(slot);
  if (!shared && !named) return;
  if (!shared && available_bytes() < slot_bytes) {
    pool_.names(group).Erase(slot);  // a snapshot is worth a copy, but no more
    return;
  }
  const BlockId copy = pool_.Take(group, table->account_);
  pool_.arena()->CopyBlock(group, slot, copy);
  pool_.Release(group, slot);
  slot = copy;
  ++cow_copies_;
}

// ---- commit ----

void KvCacheManager::Commit(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                            BlockTable* table, int findable_tokens) {
  const int old_end = table->num_tokens_;
  const int64_t new_end = static_cast<int64_t>(tokens.size());
  KVASIR_CHECK(table->manager_ == this);
  KVASIR_CHECK(new_end >= old_end);
  KVASIR_CHECK(new_end <= static_cast<int64_t>(table->lists_[0].size()) * block_tokens_);
  if (new_end == old_end) return;
  table->num_tokens_ = static_cast<int>(new_end);

  // What was written must have been the writer's alone, or somebody else's content is destroyed by
  // now.
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    for (int i = std::max(old_end / block_tokens_, table->first_held_[g]);
         i * int64_t{block_tokens_} < new_end; ++i) {
      const BlockId block = table->lists_[g][i];
      KVASIR_CHECK(pool_.ref_count(g, block) == 1 && !pool_.names(g).Contains(block));
    }
  }
  if (layout().has_state()) {
    const int group = layout().state_group();
    KVASIR_CHECK(pool_.ref_count(group, table->state_slot_) == 1 &&
                 !pool_.names(group).Contains(table->state_slot_));
  }
  if (enable_prefix_cache_) {
    NameBlocks(scope, tokens, old_end, findable_tokens, table);
    if (snapshot_interval_tokens_ != 0 && new_end % snapshot_interval_tokens_ == 0)
      TakeSnapshot(scope, tokens, *table);
  }
  Trim(table);
}

void KvCacheManager::NameBlocks(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                int old_end, int findable_tokens, BlockTable* table) {
  const int64_t end = std::min<int64_t>(static_cast<int64_t>(tokens.size()), findable_tokens);
  for (int i = old_end / block_tokens_; (i + int64_t{1}) * block_tokens_ <= end; ++i) {
    // A block whose name was another's, or whose content does not follow from its tokens: its
    // successors have no name.
    if (static_cast<int>(table->digests_.size()) != i) return;
    const BlockDigest parent = i == 0 ? hasher_.Root(scope) : table->digests_.back();
    const auto block_tokens = tokens.subspan(static_cast<size_t>(i) * block_tokens_, block_tokens_);
    const BlockDigest digest = hasher_.Child(parent, block_tokens);
    for (int g = 0; g < layout().num_block_groups(); ++g) {
      if (i < table->first_held_[g]) continue;
      if (!NameBlock(g, i, digest, parent, block_tokens, table)) return;
    }
    table->digests_.push_back(digest);
  }
}

bool KvCacheManager::NameBlock(int group, int index, const BlockDigest& digest,
                               const BlockDigest& parent, absl::Span<const int32_t> block_tokens,
                               BlockTable* table) {
  BlockId& ours = table->lists_[group][index];
  PrefixCache& names = pool_.names(group);
  if (names.Insert(ours, digest, parent, block_tokens)) {
    if (group == 0 && prefix_events_ != nullptr) {
      prefix_events_->Stored(digest, index == 0 ? nullptr : &parent, block_tokens);
    }
    return true;
  }
  const BlockId filed = names.Find(digest, parent, block_tokens);
  if (filed == kNoBlock) return false;
  pool_.Ref(group, filed, table->account_);
  pool_.Release(group, ours);
  ours = filed;
  ++deduplicated_blocks_;
  return true;
}

int KvCacheManager::NextSnapshot(int num_tokens) const {
  if (snapshot_interval_tokens_ == 0) return std::numeric_limits<int>::max();
  return (num_tokens / snapshot_interval_tokens_ + 1) * snapshot_interval_tokens_;
}

void KvCacheManager::TakeSnapshot(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                  const BlockTable& table) {
  const size_t num_blocks = tokens.size() / block_tokens_;
  if (table.digests_.size() != num_blocks) return;  // not findable
  const int group = layout().state_group();
  PrefixCache& names = pool_.names(group);
  const BlockDigest& digest = table.digests_.back();
  const BlockDigest parent = num_blocks == 1 ? hasher_.Root(scope) : table.digests_[num_blocks - 2];
  const auto block_tokens = tokens.last(block_tokens_);
  if (const BlockId known = names.Find(digest, parent, block_tokens); known != kNoBlock) {
    pool_.Ref(group, known, table.account_);  // to be the most recently used
    pool_.Release(group, known);
    return;
  }
  if (pool_.num_cached(group) >= max_snapshots_) pool_.Evict(group);
  if (available_bytes() < static_cast<int64_t>(layout().state_bytes_per_sequence())) return;
  const BlockId snapshot = pool_.Take(group, table.account_);
  pool_.arena()->CopyBlock(group, table.state_slot_, snapshot);
  const bool named = names.Insert(snapshot, digest, parent, block_tokens);
  pool_.Release(group, snapshot);
  if (named) ++snapshots_;
}

void KvCacheManager::Trim(BlockTable* table) {
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    const int first = layout().FirstNeededBlock(g, table->num_tokens_);
    for (int& i = table->first_held_[g]; i < first; ++i) {
      pool_.Release(g, std::exchange(table->lists_[g][i], kNoBlock));
      table->held_bytes_ -= static_cast<int64_t>(layout().group(g).block_bytes);
    }
  }
}

// ---- sharing, going back ----

BlockTable KvCacheManager::Fork(const BlockTable& table) {
  KVASIR_CHECK(table.manager_ == this);
  BlockTable fork = NewTable(table.account_);
  const int num_blocks = layout().BlocksFor(table.num_tokens_);
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    fork.first_held_[g] = std::min(table.first_held_[g], num_blocks);
    fork.lists_[g].assign(fork.first_held_[g], kNoBlock);
    for (int i = fork.first_held_[g]; i < num_blocks; ++i)
      AppendShared(&fork, g, table.lists_[g][i]);
  }
  if (table.state_slot_ != kNoBlock && table.num_tokens_ > 0) {
    pool_.Ref(layout().state_group(), table.state_slot_, table.account_);
    fork.state_slot_ = table.state_slot_;
    fork.state_bytes_ = table.state_bytes_;
    fork.held_bytes_ += table.state_bytes_;
  }
  fork.num_tokens_ = table.num_tokens_;
  fork.digests_ = table.digests_;
  return fork;
}

int KvCacheManager::Truncate(BlockTable* table, int num_tokens) {
  KVASIR_CHECK(table->manager_ == this);
  KVASIR_CHECK(num_tokens >= 0 && num_tokens <= table->num_tokens_);
  bool possible = num_tokens > 0 && (num_tokens == table->num_tokens_ || !layout().has_state());
  for (int g = 0; g < layout().num_block_groups() && possible; ++g)
    possible = table->first_held_[g] <= layout().FirstNeededBlock(g, num_tokens);
  if (!possible) {
    table->Clear();
    return 0;
  }
  ReleaseFrom(table, layout().BlocksFor(num_tokens));
  table->num_tokens_ = num_tokens;
  table->digests_.resize(
      std::min<size_t>(table->digests_.size(), static_cast<size_t>(num_tokens / block_tokens_)));
  return num_tokens;
}

// ---- accounting ----

KvCacheManager::TableBytes KvCacheManager::Bytes(const BlockTable& table) const {
  TableBytes bytes;
  bytes.physical = static_cast<size_t>(table.held_bytes_);
  const auto add = [&](int group, BlockId block) {
    const size_t block_bytes = layout().group(group).block_bytes;
    const int refs = pool_.ref_count(group, block);
    if (refs == 1) bytes.exclusive += block_bytes;
    bytes.proportional += static_cast<double>(block_bytes) / refs;
  };
  for (size_t g = 0; g < table.lists_.size(); ++g) {
    for (size_t i = table.first_held_[g]; i < table.lists_[g].size(); ++i)
      add(static_cast<int>(g), table.lists_[g][i]);
  }
  if (table.state_slot_ != kNoBlock) add(layout().state_group(), table.state_slot_);
  return bytes;
}

KvCacheManager::PoolStats KvCacheManager::stats() const {
  PoolStats stats{.capacity_bytes = pool_.capacity_bytes(),
                  .live_bytes = pool_.live_bytes(),
                  .cached_bytes = pool_.cached_bytes(),
                  .free_bytes = pool_.available_bytes() - pool_.cached_bytes(),
                  .evictions = pool_.evictions(),
                  .cow_copies = cow_copies_,
                  .deduplicated_blocks = deduplicated_blocks_,
                  .snapshots = snapshots_,
                  .prefix_queries_tokens = prefix_queries_tokens_,
                  .prefix_hit_tokens = prefix_hit_tokens_};
  if (layout().has_state()) {
    const auto slot_bytes = static_cast<int64_t>(layout().state_bytes_per_sequence());
    stats.state_live_bytes = pool_.num_live(layout().state_group()) * slot_bytes;
    stats.state_cached_bytes = pool_.num_cached(layout().state_group()) * slot_bytes;
  }
  return stats;
}

// ---- blocks ----

void KvCacheManager::AppendBlock(BlockTable* table, int group) {
  table->lists_[group].push_back(pool_.Take(group, table->account_));
  table->held_bytes_ += static_cast<int64_t>(layout().group(group).block_bytes);
}

void KvCacheManager::AppendShared(BlockTable* table, int group, BlockId block) {
  pool_.Ref(group, block, table->account_);
  table->lists_[group].push_back(block);
  table->held_bytes_ += static_cast<int64_t>(layout().group(group).block_bytes);
}

void KvCacheManager::ReleaseFrom(BlockTable* table, int first) {
  if (first == 0 && table->state_slot_ != kNoBlock) ReleaseState(table);
  if (table->lists_.empty()) return;
  for (int i = static_cast<int>(table->lists_[0].size()) - 1; i >= first; --i) {
    for (int g = 0; g < layout().num_block_groups(); ++g) {
      std::vector<BlockId>& list = table->lists_[g];
      if (i >= table->first_held_[g]) {
        pool_.Release(g, list.back());
        table->held_bytes_ -= static_cast<int64_t>(layout().group(g).block_bytes);
      }
      list.pop_back();
    }
  }
  for (int& held : table->first_held_) held = std::min(held, first);
}

void KvCacheManager::ReleaseState(BlockTable* table) {
  pool_.Release(layout().state_group(), std::exchange(table->state_slot_, kNoBlock));
  table->held_bytes_ -= std::exchange(table->state_bytes_, 0);
}

}  // namespace kvasir
