// The KV cache of one model: which sequence holds which blocks, what is shared, what a new request
// can reuse, what everything costs in bytes. The only door to the pool; the engine calls nothing
// else in this folder while it runs.
//
//   BlockTable table = manager->NewTable();
//   int cached = manager->AttachPrefix(scope, prompt, prompt.size() - 1, &table);  // reuse
//   if (!manager->Reserve(&table, end)) ...                                        // preempt
//   somebody, or wait
//   ... the model writes K/V of positions [table.num_tokens(), end) through arena()->View(layer)
//   ... manager->Commit(scope, ids_of_positions_0_to_end, &table);
//
// Blocks are reference counted. A block is live (some table holds it), cached (no table does, but a
// prompt with the same beginning finds it) or free; live + cached + free = capacity at all times.
// Cached blocks are taken back, least recently used first, when no free one is left. A block that
// more than one table holds, or that the prefix cache can find, is never written: Reserve first
// gives the writer a copy (shared) or forgets the cache entry (held by this table alone).
//
// Owns the arena. Not thread safe: everything belongs to the engine thread, kernels reading and
// writing through KvViews during a step excepted. No call blocks or does I/O; each is O(blocks it
// touches) unless it says less. Does not know models, requests or tenants: `scope` is a number that
// separates those who must not share, `account` one that says whose live blocks are counted
// together.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvcache/block_pool.h"
#include "kvcache/block_table.h"
#include "kvcache/kv_arena.h"
#include "kvcache/kv_layout.h"
#include "kvcache/prefix_cache.h"

namespace kvasir {

struct KvCacheConfig {
  int num_blocks = 0;  // capacity; see kv_budget.h
  bool enable_prefix_cache = true;
  // Tests: unused memory holds NaN (every byte 0xFF), so that reading a position nobody wrote shows
  // at once.
  bool poison_free_blocks = false;
  // A block is zeroed when its content is given up, so that one tenant's K/V never lies in memory
  // handed to another.
  bool scrub_freed_blocks = false;
  KvHugePages huge_pages = KvHugePages::kTransparent;
  // Secret of the prefix cache's hash; the daemon draws it at start so that clients cannot aim at
  // hash values. All zero: Create draws one.
  std::array<uint8_t, 32> hash_key{};
};

class KvCacheManager {
 public:
  // InvalidArgument for a bad config, ResourceExhausted when the address space or the huge pages
  // are not there.
  static absl::StatusOr<std::unique_ptr<KvCacheManager>> Create(KvLayout layout,
                                                                KvCacheConfig config);

  KvCacheManager(const KvCacheManager&) = delete;
  KvCacheManager& operator=(const KvCacheManager&) = delete;
  ~KvCacheManager();  // no table may hold blocks any more

  KvArena* arena() { return arena_.get(); }
  const KvArena* arena() const { return arena_.get(); }
  const KvLayout& layout() const { return arena_->layout(); }

  // An empty table of this manager. Blocks that it makes live count for `account`.
  BlockTable NewTable(uint64_t account = 0) { return BlockTable(this, account); }

  // ---- reuse ----

  // The longest cached prefix of `tokens` in `scope`, in whole blocks and at most max_tokens,
  // becomes the content of the empty `table`. Returns the tokens attached (= table->num_tokens()).
  // Pass max_tokens = prompt - 1 to keep at least one position to compute, whose logits are then at
  // hand. Attaching a cached block that nobody holds makes it live, so available_blocks() falls by
  // it.
  int AttachPrefix(uint64_t scope, absl::Span<const int32_t> tokens, int max_tokens,
                   BlockTable* table);

  // How many tokens AttachPrefix would attach; changes nothing, counts nothing (admission,
  // routing).
  int PeekPrefix(uint64_t scope, absl::Span<const int32_t> tokens, int max_tokens) const;

  // ---- growth ----

  // Makes positions [table->num_tokens(), end_tokens) writable: takes blocks, and copies a partly
  // filled last block that is shared (copy-on-write). All or nothing: false, with nothing changed,
  // when free and cached blocks do not suffice. Never touches other tables. A no-op when they are
  // writable already.
  bool Reserve(BlockTable* table, int end_tokens);

  // Blocks that Reserve would take.
  int BlocksNeeded(const BlockTable& table, int end_tokens) const;

  // Positions [0, tokens.size()) are computed now; `tokens` are their ids, of which those below
  // num_tokens() are the same as before. The new ones must have been Reserved since the last Fork
  // or Truncate of the table. Blocks that became full enter the prefix cache under `scope`. When an
  // equal block is cached already (two requests with one prompt ran side by side), the table takes
  // that one and gives its own back: equal prefixes end up sharing memory whoever came first, and
  // each cached block's ancestors are held at least as long as it is.
  // Blocks that reach beyond findable_tokens stay out of the prefix cache, and with them all behind
  // them, now and later: their contents do not follow from their tokens alone (sparse attention).
  void Commit(uint64_t scope, absl::Span<const int32_t> tokens, BlockTable* table,
              int findable_tokens = std::numeric_limits<int>::max());

  // A table with the same computed positions, sharing all blocks that hold them; either one's next
  // write into a shared block copies it. Blocks reserved beyond num_tokens() stay with `table`.
  BlockTable Fork(const BlockTable& table);

  // Drops positions >= num_tokens (speculation undone, a session's history edited) and every block,
  // reserved ones included, that is not needed for the rest. Writes nothing.
  void Truncate(BlockTable* table, int num_tokens);

  // ---- moving contents (spill files) ----

  // The K/V parts of the blocks that hold computed positions, block after block in the arena's
  // format. Slots not computed are zero, whatever the memory held. Its size is
  // layout().BlocksFor(num_tokens) * kv_part_bytes.
  std::vector<uint8_t> ExportBlocks(const BlockTable& table) const;

  // Reserves the empty `table` for num_tokens positions and returns the K/V parts of its blocks, in
  // order, to be filled with what ExportBlocks gave (by KvSpill::Restore, without a second copy).
  // If the layout has columns, full blocks then want theirs written (runtime/ops/key_columns); then
  // Commit. ResourceExhausted, with nothing changed, when the pool has too few blocks. A failed
  // fill needs no undoing beyond table->Clear().
  absl::StatusOr<std::vector<absl::Span<uint8_t>>> ReserveForImport(BlockTable* table,
                                                                    int num_tokens);

  // ReserveForImport and the copy in one. InvalidArgument when payload is not the size num_tokens
  // asks for.
  absl::Status ImportBlocks(absl::Span<const uint8_t> payload, int num_tokens, BlockTable* table);

  // ---- accounting, exact, in bytes ----

  struct TableBytes {
    size_t physical = 0;  // of the blocks the table holds
    size_t exclusive =
        0;  // of those that nobody else holds: what its end would make free or cached
    double proportional =
        0;  // each block divided by its holders; sums to live bytes over all tables
  };
  TableBytes Bytes(const BlockTable& table) const;

  struct PoolStats {
    int64_t capacity_blocks = 0;
    int64_t live_blocks = 0;    // held by a table
    int64_t cached_blocks = 0;  // held by none, findable
    int64_t free_blocks = 0;
    size_t block_bytes = 0;
    int64_t evictions = 0;            // cached blocks given up because a free one was wanted
    int64_t cow_copies = 0;           // blocks copied before a write
    int64_t deduplicated_blocks = 0;  // blocks given back in Commit because an equal one was cached
    int64_t prefix_queries_tokens = 0;  // prompt tokens AttachPrefix was asked about
    int64_t prefix_hit_tokens = 0;      // of those, attached
  };
  PoolStats stats() const;  // O(1)

  // Live blocks that tables of `account` took or attached first; a block that several tables hold
  // counts once. Over all accounts they sum to stats().live_blocks. O(1).
  int64_t live_blocks(uint64_t account) const {
    const auto found = live_blocks_.find(account);
    return found == live_blocks_.end() ? 0 : found->second;
  }

  // Blocks that Reserve calls can take in all: free and cached.
  int available_blocks() const { return pool_.num_free() + pool_.num_cached(); }

  // References to `block` by tables, for tests and debugging.
  int ref_count(BlockId block) const { return pool_.ref_count(block); }
  // Whether the prefix cache can find `block`.
  bool is_findable(BlockId block) const { return prefix_.Contains(block); }

  // Forgets every cached block that no table holds. Live blocks stay findable.
  void DropCache();

 private:
  friend class BlockTable;

  KvCacheManager(std::unique_ptr<KvArena> arena, const KvCacheConfig& config);

  // Gives back the references of blocks_[first, end), last block first: the LRU list then evicts
  // the end of a prefix before its beginning, so what stays cached stays reachable.
  void ReleaseFrom(BlockTable* table, int first);
  void Release(BlockId block);
  // Adds a reference; a cached block becomes live for `account`.
  void RefFor(BlockId block, uint64_t account);
  BlockId Take(uint64_t account);  // needs available_blocks() > 0
  void BookLive(BlockId block, uint64_t account);
  void FreeCached(BlockId block);
  void EraseContent(BlockId block);  // poison or scrub, as configured
  bool LastBlockIsShared(const BlockTable& table) const;
  // Calls attach(block) for each cached block of the prefix; returns the number of blocks.
  template <typename Attach>
  int WalkPrefix(uint64_t scope, absl::Span<const int32_t> tokens, int max_tokens,
                 Attach attach) const;

  // Constant after construction.
  const std::unique_ptr<KvArena> arena_;
  const int block_tokens_;
  const bool enable_prefix_cache_;
  const bool poison_;
  const bool scrub_;

  BlockPool pool_;
  PrefixCache prefix_;
  std::vector<uint64_t> accounts_;                      // [num_blocks], of live blocks
  absl::flat_hash_map<uint64_t, int64_t> live_blocks_;  // by account; none is 0
  int64_t evictions_ = 0;
  int64_t cow_copies_ = 0;
  int64_t deduplicated_blocks_ = 0;
  int64_t prefix_queries_tokens_ = 0;
  int64_t prefix_hit_tokens_ = 0;
};

}  // namespace kvasir
