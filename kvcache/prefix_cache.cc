#include "kvcache/prefix_cache.h"

#include <algorithm>

#include "base/check.h"

namespace kvasir {

PrefixCache::PrefixCache(int num_blocks, int block_tokens)
    : block_tokens_(block_tokens),
      entries_(num_blocks),
      tokens_(static_cast<size_t>(num_blocks) * block_tokens) {
  // Twice what can ever be filed: erased slots then never force the table to grow, only to tidy
  // itself now and then.
  blocks_.reserve(2 * static_cast<size_t>(num_blocks));
}

BlockId PrefixCache::Find(const BlockDigest& digest, const BlockDigest& parent,
                          absl::Span<const int32_t> tokens) const {
  const auto it = blocks_.find(digest);
  if (it == blocks_.end()) return kNoBlock;
  const BlockId block = it->second;
  const int32_t* filed = tokens_.data() + static_cast<size_t>(block) * block_tokens_;
  if (entries_[block].parent != parent || !std::equal(tokens.begin(), tokens.end(), filed)) {
    return kNoBlock;
  }
  return block;
}

bool PrefixCache::Insert(BlockId block, const BlockDigest& digest, const BlockDigest& parent,
                         absl::Span<const int32_t> tokens) {
  KVASIR_CHECK(static_cast<int>(tokens.size()) == block_tokens_);
  Entry& entry = entries_[block];
  KVASIR_CHECK(!entry.filed);
  if (!blocks_.try_emplace(digest, block).second) return false;
  entry = {.digest = digest, .parent = parent, .filed = true};
  std::copy(tokens.begin(), tokens.end(),
            tokens_.begin() + static_cast<size_t>(block) * block_tokens_);
  return true;
}

void PrefixCache::Erase(BlockId block) {
  Entry& entry = entries_[block];
  KVASIR_CHECK(entry.filed);
  if (log_ != nullptr) log_->Removed(entry.digest);
  blocks_.erase(entry.digest);
  entry.filed = false;
}

const BlockDigest& PrefixCache::digest(BlockId block) const {
  KVASIR_CHECK(entries_[block].filed);
  return entries_[block].digest;
}

const BlockDigest& PrefixCache::parent(BlockId block) const {
  KVASIR_CHECK(entries_[block].filed);
  return entries_[block].parent;
}

absl::Span<const int32_t> PrefixCache::tokens(BlockId block) const {
  KVASIR_CHECK(entries_[block].filed);
  return {tokens_.data() + static_cast<size_t>(block) * block_tokens_,
          static_cast<size_t>(block_tokens_)};
}

}  // namespace kvasir
