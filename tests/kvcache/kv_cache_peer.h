// What tests do with a KvCacheManager and the product does not.

#ifndef KVASIR_TESTS_KVCACHE_KV_CACHE_PEER_H_
#define KVASIR_TESTS_KVCACHE_KV_CACHE_PEER_H_

#include <cstdint>
#include <cstring>

#include "absl/types/span.h"
#include "kvcache/kv_cache_manager.h"

namespace kvasir {

class KvCachePeer {
 public:
  // How many tokens AttachPrefix would attach; changes nothing, counts nothing.
  static int CachedPrefix(const KvCacheManager& manager, const PrefixScope& scope,
                          absl::Span<const int32_t> tokens, int max_tokens) {
    return manager.block_tokens_ * manager.FindPrefix(scope, tokens, max_tokens).num_blocks;
  }

  static int RefCount(const KvCacheManager& manager, int group, BlockId block) {
    return manager.pool_.ref_count(group, block);
  }

  // Whether the prefix cache can find `block`.
  static bool IsFindable(const KvCacheManager& manager, int group, BlockId block) {
    return manager.pool_.names(group).Contains(block);
  }

  static int64_t ResidentBytes(const KvCacheManager& manager) {
    return manager.pool_.resident_bytes();
  }
};

// Into the empty `table` what ExportBlocks gave of a table of num_tokens; false, with nothing
// changed, where the pool has too few bytes.
inline bool ImportBlocks(absl::Span<const uint8_t> payload, int num_tokens, KvCacheManager* manager,
                         BlockTable* table) {
  auto memory = manager->ReserveForImport(table, num_tokens);
  if (!memory.ok()) return false;
  for (const auto& block : *memory) {
    std::memcpy(block.data(), payload.data(), block.size());
    payload.remove_prefix(block.size());
  }
  return true;
}

}  // namespace kvasir

#endif  // KVASIR_TESTS_KVCACHE_KV_CACHE_PEER_H_
