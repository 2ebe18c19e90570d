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
// prompt with the same beginning finds it) or free; live + cached + free = capacity, in bytes, at
// all times. Cached blocks are taken back, least recently used first, when nothing free is left. A
// block that more than one table holds, or that the prefix cache can find, is never written:
// Reserve first gives the writer a copy (shared) or forgets the cache entry (held by this table
// alone).
//
// Groups of layers (kv_layout.h) differ in what a sequence of n tokens still needs of them: the
// full group every block, a windowed one the blocks of its last window, the state group one slot.
// Commit gives back the rest, which stays findable like any block. So a cached prefix of n tokens
// is one for which every group has what it needs at n. A state is there only behind the newest
// position: reuse lives off snapshots of it, taken at some block borders and cached like blocks,
// and what the table has given up it cannot go back to (Truncate).
//
// Owns the pool. Not thread safe: everything belongs to the engine thread, kernels reading and
// writing through KvViews during a step excepted. No call blocks or does I/O; each is O(blocks it
// touches) unless it says less. Does not know models, requests or tenants: `scope`
// separates those who must not share, `account` one that says whose live blocks are counted
// together.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvcache/block_hash.h"
#include "kvcache/block_table.h"
#include "kvcache/grouped_pool.h"
#include "kvcache/kv_arena.h"
#include "kvcache/kv_layout.h"

namespace kvasir {

struct KvCacheConfig {
  int64_t capacity_bytes = 0;  // of all blocks; see kv_budget.h
  bool enable_prefix_cache = true;
  bool poison_free_blocks = false;  // tests; see GroupedPool::Options
  bool scrub_freed_blocks = false;
  KvHugePages huge_pages = KvHugePages::kTransparent;
  // Models with state layers: a snapshot every so many tokens, rounded up to whole blocks, and most
  // of them at once; 0 = none. Only with the prefix cache.
  int snapshot_interval_tokens = 512;
  int max_snapshots = 64;
  // Secret of the prefix cache's hash; the daemon draws it at start so that clients cannot aim at
  // hash values. All zero: Create draws one.
  std::array<uint8_t, 32> hash_key{};
  // Given what the prefix cache has to give up. May be null; outlives the manager.
  EvictedBlocks* evicted = nullptr;
  // Told which blocks of the first group become findable and which no longer are. May be null;
  // outlives the manager.
  PrefixEventLog* prefix_events = nullptr;
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

  KvArena* arena() { return pool_.arena(); }
  const KvArena* arena() const { return pool_.arena(); }
  const KvLayout& layout() const { return pool_.arena()->layout(); }

  // An empty table of this manager. Blocks that it makes live count for `account`.
  BlockTable NewTable(uint64_t account = 0) {
    return BlockTable(this, account, layout().num_block_groups());
  }

  // ---- reuse ----

  // The longest cached prefix of `tokens` in `scope`, in whole blocks and at most max_tokens,
  // becomes the content of the empty `table`. Returns the tokens attached (= table->num_tokens()).
  // Pass max_tokens = prompt - 1 to keep at least one position to compute, whose logits are then at
  // hand. Attaching a cached block that nobody holds makes it live, so available_bytes() falls by
  // its bytes.
  int AttachPrefix(const PrefixScope& scope, absl::Span<const int32_t> tokens, int max_tokens,
                   BlockTable* table);

  // ---- reuse of what is stored elsewhere (kvcache/stored_prefix.cc) ----

  // Whether a block of that name can be had from elsewhere; EvictedBlocks took it once.
  using IsStored = absl::FunctionRef<bool(int group, const BlockDigest& digest)>;
  // A block to be read from there.
  struct StoredBlock {
    int group = 0;
    int index = 0;  // in the sequence; of a state the last block before it
    BlockDigest digest;
    BlockDigest parent;
    std::vector<int32_t> tokens;  // [block_tokens]
    BlockId block = kNoBlock;
    absl::Span<uint8_t> content;  // [StoredBytes], to be filled
  };

  // What would have to be read so that more of the prompt can be attached than is in the pool: in
  // bytes of the pool, 0 if nothing would help.
  int64_t PeekStored(const PrefixScope& scope, absl::Span<const int32_t> tokens, int max_tokens,
                     IsStored is_stored) const;
  // Takes blocks for that, and holds all others of that prefix meanwhile, in the empty `table`,
  // which is of no other use. None, with nothing changed, when there is nothing or too few bytes
  // are available. The order is that of `index`.
  std::vector<StoredBlock> ReserveStored(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                         int max_tokens, IsStored is_stored, BlockTable* table);
  // The first of those that were reserved have their content: AttachPrefix finds them. Clears the
  // table.
  void FileStored(absl::Span<const StoredBlock> filled, BlockTable* table);

  // ---- growth ----

  // Makes positions [table->num_tokens(), end_tokens) writable: takes blocks, and copies a partly
  // filled last block that is shared (copy-on-write); with state layers, a slot of the table's own,
  // of any content for a new sequence. All or nothing: false, with nothing changed, when free and
  // cached bytes do not suffice. Never touches other tables. A no-op when they are writable
  // already.
  bool Reserve(BlockTable* table, int end_tokens);

  // Bytes that Reserve would take.
  int64_t BytesNeeded(const BlockTable& table, int end_tokens) const;
  // The most that the table would hold beyond what it holds now on its way to end_tokens in steps
  // of at most step_tokens, each Reserved and Committed. BytesNeeded where no group has a window.
  int64_t BytesToReach(const BlockTable& table, int end_tokens, int step_tokens) const;

  // Where a snapshot of the state is due: the next position behind num_tokens at which a Commit
  // that ends there takes one. INT_MAX when there are none.
  int NextSnapshot(int num_tokens) const;

  // Positions [0, tokens.size()) are computed now; `tokens` are their ids, of which those below
  // num_tokens() are the same as before. The new ones must have been Reserved since the last Fork
  // or Truncate of the table. Blocks that became full enter the prefix cache under `scope`. When an
  // equal block is cached already (two requests with one prompt ran side by side), the table takes
  // that one and gives its own back: equal prefixes end up sharing memory whoever came first, and
  // each cached block's ancestors are held at least as long as it is. What no later position needs
  // of windowed groups is given back. If the end is one where a snapshot is due and bytes are free
  // or cached for it, the state is copied into the prefix cache. Blocks that reach beyond
  // findable_tokens stay out of the prefix cache, and with them all behind them, now and later:
  // their contents do not follow from their tokens alone (sparse attention).
  void Commit(const PrefixScope& scope, absl::Span<const int32_t> tokens, BlockTable* table,
              int findable_tokens = std::numeric_limits<int>::max());

  // A table with the same computed positions, sharing all blocks that hold them; either one's next
  // write into a shared block copies it. Blocks reserved beyond num_tokens() stay with `table`.
  BlockTable Fork(const BlockTable& table);

  // Drops positions >= num_tokens (speculation undone, a session's history edited) and every block,
  // reserved ones included, that is not needed for the rest. Writes nothing. What a position behind
  // num_tokens would need may be given up already: blocks of a window, and always the state. Then
  // everything is dropped. Returns the tokens that are left: num_tokens or 0.
  int Truncate(BlockTable* table, int num_tokens);

  // ---- moving contents (spill files) ----

  // What the computed positions still need: for each block group the K/V parts of its blocks, one
  // after another in the arena's format, then the state. Slots not computed are zero, whatever the
  // memory held. Its size is layout().ExportBytes(num_tokens).
  std::vector<uint8_t> ExportBlocks(const BlockTable& table) const;

  // Takes for the empty `table` what num_tokens positions need and returns the memory in
  // ExportBlocks' order, to be filled with what that gave (by KvSpill::Restore, without a second
  // copy). If the layout has columns, full blocks then want theirs written
  // (runtime/ops/sparse/key_columns); then Commit. ResourceExhausted, with nothing changed, when
  // the pool has too few bytes. A failed fill needs no undoing beyond table->Clear().
  absl::StatusOr<std::vector<absl::Span<uint8_t>>> ReserveForImport(BlockTable* table,
                                                                    int num_tokens);

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
    int64_t capacity_bytes = 0;  // live + cached + free
    int64_t live_bytes = 0;      // held by a table
    int64_t cached_bytes = 0;    // held by none, findable
    int64_t free_bytes = 0;
    int64_t state_live_bytes = 0;       // of live_bytes
    int64_t state_cached_bytes = 0;     // of cached_bytes: snapshots
    int64_t evictions = 0;              // cached blocks given up because their bytes were wanted
    int64_t cow_copies = 0;             // blocks copied before a write
    int64_t deduplicated_blocks = 0;    // given back in Commit because an equal one was cached
    int64_t snapshots = 0;              // of states, taken
    int64_t prefix_queries_tokens = 0;  // prompt tokens AttachPrefix was asked about
    int64_t prefix_hit_tokens = 0;      // of those, attached
  };
  PoolStats stats() const;  // O(1)

  // Live bytes that tables of `account` took or attached first; a block that several tables hold
  // counts once. Over all accounts they sum to stats().live_bytes. O(1).
  int64_t live_bytes(uint64_t account) const { return pool_.live_bytes(account); }

  // Bytes that Reserve calls can take in all: free and cached.
  int64_t available_bytes() const { return pool_.available_bytes(); }

  // Blocks of one group, each of its block_bytes. O(1).
  int num_live(int group) const { return pool_.num_live(group); }
  int num_cached(int group) const { return pool_.num_cached(group); }

  // Forgets every cached block that no table holds; the newest, up to most_bytes, are evicted.
  // Live blocks stay findable.
  void EvictCache(int64_t most_bytes) { pool_.EvictAll(most_bytes); }

 private:
  friend class BlockTable;
  friend class KvCachePeer;  // tests/kvcache/kv_cache_peer.h

  // In place of a block that is not in the pool, but stored.
  static constexpr BlockId kStored = kNoBlock - 1;

  // What the prefix cache knows of a prompt: the longest prefix that can be attached.
  struct Prefix {
    int num_blocks = 0;
    std::vector<std::vector<BlockId>> lists;  // [block groups][at least num_blocks]
    BlockId snapshot = kNoBlock;
    std::vector<BlockDigest> digests;  // [at least num_blocks]
  };

  KvCacheManager(std::unique_ptr<KvArena> arena, const KvCacheConfig& config);

  // With `is_stored`, which may be null, also blocks that have to be read first (kStored).
  Prefix FindPrefix(const PrefixScope& scope, absl::Span<const int32_t> tokens, int max_tokens,
                    const IsStored* is_stored = nullptr) const;
  // visit(group, index, block or kStored) for all that a table of that prefix holds, in the order
  // of index, the state last.
  template <typename Visit>
  void ForEachNeeded(const Prefix& prefix, Visit visit) const;
  // Which blocks of a group that is: from this one on.
  int FirstHeld(const Prefix& prefix, int group) const {
    return layout().FirstNeededBlock(group, prefix.num_blocks * block_tokens_);
  }

  // Gives back the references of blocks [first, end) of all groups and, with first = 0, of the
  // state; last block first: the LRU list then evicts the end of a prefix before its beginning, so
  // what stays cached stays reachable.
  void ReleaseFrom(BlockTable* table, int first);
  void ReleaseState(BlockTable* table);
  void AppendBlock(BlockTable* table, int group);
  // The same for a block that exists.
  void AppendShared(BlockTable* table, int group, BlockId block);
  // Gives back what lies behind the windows.
  void Trim(BlockTable* table);
  // The blocks of a sequence that ends within [0, end_tokens).
  bool LastBlockIsShared(const BlockTable& table, int group) const;
  void MakeLastBlockWritable(BlockTable* table, int group);
  // Whether the table has no slot that it may write, counted the cheapest way.
  bool NeedsSlot(const BlockTable& table) const;
  void MakeStateWritable(BlockTable* table);
  // Names the blocks that [old_end, tokens.size()) filled.
  void NameBlocks(const PrefixScope& scope, absl::Span<const int32_t> tokens, int old_end,
                  int findable_tokens, BlockTable* table);
  // Files block `index` of one group; false when its name is another's.
  bool NameBlock(int group, int index, const BlockDigest& digest, const BlockDigest& parent,
                 absl::Span<const int32_t> block_tokens, BlockTable* table);
  void TakeSnapshot(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                    const BlockTable& table);

  // Constant after construction.
  const int block_tokens_;
  const bool enable_prefix_cache_;
  const int snapshot_interval_tokens_;  // 0: none are taken
  const int max_snapshots_;
  PrefixEventLog* const prefix_events_;

  GroupedPool pool_;
  mutable BlockHasher hasher_;  // only scratch state changes
  int64_t cow_copies_ = 0;
  int64_t deduplicated_blocks_ = 0;
  int64_t snapshots_ = 0;
  int64_t prefix_queries_tokens_ = 0;
  int64_t prefix_hit_tokens_ = 0;
};

}  // namespace kvasir
