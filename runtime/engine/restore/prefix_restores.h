// Prompts whose beginning is on disk: blocks that the prefix cache gave up once and that come back
// into it, beside the steps, while their sequence is restoring. Afterwards the sequence attaches
// what is cached as any other does.
//
// While blocks are read they are live, for the tenant of the sequence that waits for them, and
// neither they nor it can be taken. What one sequence has under way, others wait for.
//
// Owned and called by the engine thread; RestoreWorker's reads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "kvcache/kv_cache_manager.h"
#include "kvcache/spill/prefix_spill.h"
#include "runtime/engine/restore/restore_worker.h"
#include "runtime/engine/scheduler.h"

namespace kvasir {

class PrefixRestores {
 public:
  // `store` may be null: then nothing is ever on disk. `worker` may be null only if it is.
  PrefixRestores(KvCacheManager* kv, PrefixSpill* store, RestoreWorker* worker)
      : kv_(kv), store_(store), worker_(worker) {}

  // What of the sequence's tokens is on disk only and would help. O(blocks), unless nothing changed
  // since it was told to come later.
  SpilledBlocks Stored(const PrefixScope& scope, const Sequence& sequence, int max_tokens) const;

  // Begins to read that back. False, with nothing changed, when there are no blocks or no thread
  // for it; what failed is then to be told.
  bool Start(const PrefixScope& scope, Sequence* sequence, int max_tokens, absl::Status* failed);

  // Whether the job is one of these: it is over then, what was read is cached, and `*reader` the
  // sequence that waited for it, null if it does not any more.
  bool End(const RestoreJob* job, Sequence** reader);

  // The sequence ends.
  void Abandon(const Sequence* sequence);

  // Blocks held for a sequence that is restoring; null if there are none.
  const BlockTable* TableOf(const Sequence* sequence) const;
  // Those of sequences that ended meanwhile too.
  int64_t under_way() const { return static_cast<int64_t>(restores_.size()); }

 private:
  struct Restore {
    Sequence* reader = nullptr;  // null once it ended
    BlockTable table;
    std::shared_ptr<RestoreJob> job;
  };

  KvCacheManager* const kv_;
  PrefixSpill* const store_;
  RestoreWorker* const worker_;
  std::vector<Restore> restores_;                // at most RestoreWorker::kMaxJobs
  absl::flat_hash_set<StoredBlockName> coming_;  // being read
  uint64_t ended_ = 0;                           // counts restores that are over, sessions' too
};

}  // namespace kvasir
