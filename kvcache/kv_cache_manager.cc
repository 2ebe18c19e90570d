#include "kvcache/kv_cache_manager.h"

#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace kvasir {

absl::StatusOr<std::unique_ptr<KvCacheManager>> KvCacheManager::Create(KvLayout layout,
                                                                       KvCacheConfig config) {
  auto arena = KvArena::Create(std::move(layout), config.num_blocks, config.huge_pages);
  if (!arena.ok()) return arena.status();
  if (config.hash_key == decltype(config.hash_key){} &&
      RAND_bytes(config.hash_key.data(), static_cast<int>(config.hash_key.size())) != 1) {
    return absl::UnavailableError(
        "KV cache: the system has no randomness for the prefix cache's key; pass hash_key");
  }
  return std::unique_ptr<KvCacheManager>(new KvCacheManager(*std::move(arena), config));
}

KvCacheManager::KvCacheManager(std::unique_ptr<KvArena> arena, const KvCacheConfig& config)
    : arena_(std::move(arena)),
      block_tokens_(arena_->layout().block_tokens()),
      enable_prefix_cache_(config.enable_prefix_cache),
      poison_(config.poison_free_blocks),
      scrub_(config.scrub_freed_blocks),
      pool_(config.num_blocks),
      prefix_(config.num_blocks, block_tokens_, config.hash_key),
      accounts_(config.num_blocks) {
  if (!poison_) return;
  for (BlockId block = 0; block < config.num_blocks; ++block) arena_->PoisonBlock(block);
}

KvCacheManager::~KvCacheManager() { KVASIR_CHECK(pool_.num_live() == 0); }

// ---- reuse ----

template <typename Attach>
int KvCacheManager::WalkPrefix(uint64_t scope, absl::Span<const int32_t> tokens, int max_tokens,
                               Attach attach) const {
  if (!enable_prefix_cache_) return 0;
  const int64_t limit = std::min<int64_t>(max_tokens, tokens.size());
  const int max_blocks = limit <= 0 ? 0 : static_cast<int>(limit / block_tokens_);
  if (max_blocks == 0) return 0;
  BlockDigest parent = prefix_.Root(scope);
  int found = 0;
  for (; found < max_blocks; ++found) {
    const auto block_tokens =
        tokens.subspan(static_cast<size_t>(found) * block_tokens_, block_tokens_);
    const BlockDigest digest = prefix_.Child(parent, block_tokens);
    const BlockId block = prefix_.Find(digest, parent, block_tokens);
    if (block == kNoBlock) break;
    attach(block);
    parent = digest;
  }
  return found;
}

int KvCacheManager::AttachPrefix(uint64_t scope, absl::Span<const int32_t> tokens, int max_tokens,
                                 BlockTable* table) {
  KVASIR_CHECK(table->manager_ == this && table->empty());
  const int found = WalkPrefix(scope, tokens, max_tokens, [&](BlockId block) {
    RefFor(block, table->account_);
    table->blocks_.push_back(block);
  });
  table->num_tokens_ = found * block_tokens_;
  prefix_queries_tokens_ += enable_prefix_cache_ ? tokens.size() : 0;
  prefix_hit_tokens_ += table->num_tokens_;
  return table->num_tokens_;
}

int KvCacheManager::PeekPrefix(uint64_t scope, absl::Span<const int32_t> tokens,
                               int max_tokens) const {
  return block_tokens_ * WalkPrefix(scope, tokens, max_tokens, [](BlockId) {});
}

// ---- growth ----

bool KvCacheManager::LastBlockIsShared(const BlockTable& table) const {
  return table.num_tokens_ % block_tokens_ != 0 &&
         pool_.ref_count(table.blocks_[table.num_tokens_ / block_tokens_]) > 1;
}

int KvCacheManager::BlocksNeeded(const BlockTable& table, int end_tokens) const {
  if (end_tokens <= table.num_tokens_) return 0;
  const int more = std::max(0, layout().BlocksFor(end_tokens) - table.num_blocks());
  return more + (LastBlockIsShared(table) ? 1 : 0);
}

bool KvCacheManager::Reserve(BlockTable* table, int end_tokens) {
  KVASIR_CHECK(table->manager_ == this);
  if (end_tokens <= table->num_tokens_) return true;
  if (BlocksNeeded(*table, end_tokens) > available_blocks()) return false;

  if (const int filled = table->num_tokens_ % block_tokens_; filled != 0) {
    BlockId& last = table->blocks_[table->num_tokens_ / block_tokens_];
    if (pool_.ref_count(last) > 1) {
      const BlockId copy = Take(table->account_);
      arena_->CopyPositions(last, copy, filled);
      Release(last);
      last = copy;
      ++cow_copies_;
    } else if (prefix_.Contains(last)) {
      // Filed when it was full, then truncated by its only holder, which will now overwrite the
      // rest.
      prefix_.Erase(last);
    }
  }
  const int num_blocks = layout().BlocksFor(end_tokens);
  while (table->num_blocks() < num_blocks) table->blocks_.push_back(Take(table->account_));
  return true;
}

void KvCacheManager::Commit(uint64_t scope, absl::Span<const int32_t> tokens, BlockTable* table,
                            int findable_tokens) {
  const int old_end = table->num_tokens_;
  const int64_t new_end = tokens.size();
  KVASIR_CHECK(table->manager_ == this);
  KVASIR_CHECK(new_end >= old_end);
  KVASIR_CHECK(new_end <= static_cast<int64_t>(table->num_blocks()) * block_tokens_);
  if (new_end == old_end) return;
  table->num_tokens_ = static_cast<int>(new_end);

  // What was written must have been the writer's alone, or somebody else's content is destroyed by
  // now.
  for (int i = old_end / block_tokens_; i * int64_t{block_tokens_} < new_end; ++i) {
    KVASIR_CHECK(pool_.ref_count(table->blocks_[i]) == 1 && !prefix_.Contains(table->blocks_[i]));
  }
  if (!enable_prefix_cache_) return;

  for (int i = old_end / block_tokens_; (i + int64_t{1}) * block_tokens_ <= new_end; ++i) {
    if ((i + int64_t{1}) * block_tokens_ > findable_tokens) break;
    BlockId& ours = table->blocks_[i];
    // A predecessor is unfiled only if its digest collided; its successors then have no name.
    if (i > 0 && !prefix_.Contains(table->blocks_[i - 1])) break;
    const BlockDigest parent = i == 0 ? prefix_.Root(scope) : prefix_.digest(table->blocks_[i - 1]);
    const auto block_tokens = tokens.subspan(static_cast<size_t>(i) * block_tokens_, block_tokens_);
    const BlockDigest digest = prefix_.Child(parent, block_tokens);
    if (prefix_.Insert(ours, digest, parent, block_tokens)) continue;
    const BlockId filed = prefix_.Find(digest, parent, block_tokens);
    if (filed == kNoBlock) break;
    RefFor(filed, table->account_);
    Release(ours);
    ours = filed;
    ++deduplicated_blocks_;
  }
}

BlockTable KvCacheManager::Fork(const BlockTable& table) {
  KVASIR_CHECK(table.manager_ == this);
  BlockTable fork(this, table.account_);
  const int num_blocks = layout().BlocksFor(table.num_tokens_);
  fork.blocks_.assign(table.blocks_.begin(), table.blocks_.begin() + num_blocks);
  for (const BlockId block : fork.blocks_) pool_.Ref(block);
  fork.num_tokens_ = table.num_tokens_;
  return fork;
}

void KvCacheManager::Truncate(BlockTable* table, int num_tokens) {
  KVASIR_CHECK(table->manager_ == this);
  KVASIR_CHECK(num_tokens >= 0 && num_tokens <= table->num_tokens_);
  ReleaseFrom(table, layout().BlocksFor(num_tokens));
  table->num_tokens_ = num_tokens;
}

// ---- moving contents ----

std::vector<uint8_t> KvCacheManager::ExportBlocks(const BlockTable& table) const {
  KVASIR_CHECK(table.manager_ == this);
  const size_t part_bytes = layout().kv_part_bytes();
  const int full_blocks = table.num_tokens_ / block_tokens_;
  const int rest = table.num_tokens_ % block_tokens_;
  std::vector<uint8_t> payload;
  payload.reserve(layout().BlocksFor(table.num_tokens_) * part_bytes);
  for (int i = 0; i < full_blocks; ++i) {
    const auto bytes = std::as_const(*arena_).Block(table.blocks_[i]).subspan(0, part_bytes);
    payload.insert(payload.end(), bytes.begin(), bytes.end());
  }
  if (rest != 0) {
    payload.resize(payload.size() + part_bytes);
    arena_->ExportPositions(table.blocks_[full_blocks], rest,
                            payload.data() + full_blocks * part_bytes);
  }
  return payload;
}

absl::StatusOr<std::vector<absl::Span<uint8_t>>> KvCacheManager::ReserveForImport(BlockTable* table,
                                                                                  int num_tokens) {
  KVASIR_CHECK(table->manager_ == this && table->empty());
  if (num_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV import: num_tokens is ", num_tokens, ", must be at least 1"));
  }
  if (!Reserve(table, num_tokens)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "KV import: ", num_tokens, " tokens need ", layout().BlocksFor(num_tokens), " blocks of ",
        arena_->block_bytes(), " bytes, ", available_blocks(), " are available of ",
        pool_.num_blocks(), "; free or preempt other sequences first"));
  }
  std::vector<absl::Span<uint8_t>> memory;
  memory.reserve(table->blocks_.size());
  for (const BlockId block : table->blocks_) {
    memory.push_back(arena_->Block(block).subspan(0, layout().kv_part_bytes()));
  }
  return memory;
}

absl::Status KvCacheManager::ImportBlocks(absl::Span<const uint8_t> payload, int num_tokens,
                                          BlockTable* table) {
  const size_t wanted_bytes =
      num_tokens < 1 ? 0 : layout().BlocksFor(num_tokens) * layout().kv_part_bytes();
  if (payload.size() != wanted_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("KV import: the payload has ", payload.size(),
                                                   " bytes, ", num_tokens,
                                                   " tokens of this layout take ", wanted_bytes));
  }
  auto memory = ReserveForImport(table, num_tokens);
  if (!memory.ok()) return memory.status();
  for (const auto& block : *memory) {
    std::memcpy(block.data(), payload.data(), block.size());
    payload.remove_prefix(block.size());
  }
  return absl::OkStatus();
}

// ---- accounting ----

KvCacheManager::TableBytes KvCacheManager::Bytes(const BlockTable& table) const {
  const size_t block_bytes = arena_->block_bytes();
  TableBytes bytes;
  bytes.physical = table.blocks_.size() * block_bytes;
  for (const BlockId block : table.blocks_) {
    const int refs = pool_.ref_count(block);
    if (refs == 1) bytes.exclusive += block_bytes;
    bytes.proportional += static_cast<double>(block_bytes) / refs;
  }
  return bytes;
}

KvCacheManager::PoolStats KvCacheManager::stats() const {
  return {.capacity_blocks = pool_.num_blocks(),
          .live_blocks = pool_.num_live(),
          .cached_blocks = pool_.num_cached(),
          .free_blocks = pool_.num_free(),
          .block_bytes = arena_->block_bytes(),
          .evictions = evictions_,
          .cow_copies = cow_copies_,
          .deduplicated_blocks = deduplicated_blocks_,
          .prefix_queries_tokens = prefix_queries_tokens_,
          .prefix_hit_tokens = prefix_hit_tokens_};
}

void KvCacheManager::DropCache() {
  while (pool_.num_cached() > 0) FreeCached(pool_.oldest_cached());
}

// ---- blocks ----

void KvCacheManager::ReleaseFrom(BlockTable* table, int first) {
  while (table->num_blocks() > first) {
    Release(table->blocks_.back());
    table->blocks_.pop_back();
  }
}

void KvCacheManager::Release(BlockId block) {
  const bool keep_cached = prefix_.Contains(block);
  if (!pool_.Unref(block, keep_cached)) return;
  const auto live = live_blocks_.find(accounts_[block]);
  if (--live->second == 0) live_blocks_.erase(live);
  if (!keep_cached) EraseContent(block);
}

void KvCacheManager::RefFor(BlockId block, uint64_t account) {
  if (pool_.is_cached(block)) BookLive(block, account);
  pool_.Ref(block);
}

void KvCacheManager::BookLive(BlockId block, uint64_t account) {
  accounts_[block] = account;
  ++live_blocks_[account];
}

BlockId KvCacheManager::Take(uint64_t account) {
  if (pool_.num_free() == 0) {
    FreeCached(pool_.oldest_cached());
    ++evictions_;
  }
  const BlockId block = pool_.Take();
  BookLive(block, account);
  return block;
}

void KvCacheManager::FreeCached(BlockId block) {
  prefix_.Erase(block);
  pool_.Uncache(block);
  EraseContent(block);
}

void KvCacheManager::EraseContent(BlockId block) {
  if (poison_) {
    arena_->PoisonBlock(block);
  } else if (scrub_) {
    arena_->ScrubBlock(block);
  }
}

}  // namespace kvasir
