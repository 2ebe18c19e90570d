// RestoreWorker: reads spilled sessions and prefix blocks back while the engine steps. For each it
// reads the files into blocks that are reserved for it, checks them, and computes the planes that
// files do not hold.
//
// Owned by the session store and called by the engine thread; one thread of its own does the work,
// one job after another, with a lower priority than the steps beside it. What a job's blocks hold
// belongs to the worker until the job is among those of TakeDone, abandoned or not: blocks are
// given back after that, never before.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/annotated_mutex.h"
#include "kvcache/kv_cache_manager.h"
#include "kvcache/kv_view.h"
#include "kvcache/spill/kv_spill.h"
#include "kvcache/spill/prefix_spill.h"

namespace kvasir {

class ForwardPass;

struct RestoreJob {
  // Of a prefix: its blocks, in order. Else none, and a session:
  std::vector<KvCacheManager::StoredBlock> blocks;
  int column_group = -1;  // of them, those of this group want their columns computed; -1: none
  std::string id;         // KvSpill's
  int num_tokens = 0;
  std::vector<absl::Span<uint8_t>> memory;  // KvCacheManager::ReserveForImport
  std::vector<BlockId> full_blocks;         // of the full group, which keeps columns
  std::atomic<bool> abandoned{false};
  // The worker's until the job is done. Cancelled when it was abandoned; else as KvSpill::Restore.
  absl::StatusOr<SpilledSequence> restored = absl::CancelledError("abandoned");
  size_t blocks_read = 0;  // of blocks: the first ones; what is behind them could not be had
};

class RestoreWorker {
 public:
  // Most jobs at once, the one being read included. Their blocks are held while others could use
  // them, and one disk is no faster for more.
  static constexpr int kMaxJobs = 4;

  // `wake` is called from the worker's thread, without a lock, when a job is done.
  // `prefixes`: may be null, if no job has blocks.
  RestoreWorker(KvSpill* spill, PrefixSpill* prefixes, ForwardPass* forward,
                std::function<void()> wake)
      : spill_(spill), prefixes_(prefixes), forward_(forward), wake_(std::move(wake)) {}
  ~RestoreWorker() { Stop(); }
  RestoreWorker(const RestoreWorker&) = delete;
  RestoreWorker& operator=(const RestoreWorker&) = delete;

  bool has_room() const { return jobs_ < kMaxJobs; }
  // Jobs that were started and not taken yet.
  int jobs() const { return jobs_; }

  // Needs has_room(). Unavailable when the system gives no thread; then nothing was started.
  absl::Status Start(std::shared_ptr<RestoreJob> job);

  // Nobody wants it any more: it is done soon, at once if it was not begun.
  void Abandon(RestoreJob* job);

  // Those that were done since the last call. Takes no lock when there are none.
  std::vector<std::shared_ptr<RestoreJob>> TakeDone();

  // Abandons every job and ends the thread: after this each of them can be taken.
  void Stop();

 private:
  void Run();
  void Restore(RestoreJob* job) const;
  void RestoreBlocks(RestoreJob* job) const;

  KvSpill* const spill_;
  PrefixSpill* const prefixes_;
  ForwardPass* const forward_;
  const std::function<void()> wake_;

  int jobs_ = 0;  // the engine thread's
  std::atomic<bool> has_done_{false};

  AnnotatedMutex mutex_;
  AnnotatedCondVar changed_;
  std::deque<std::shared_ptr<RestoreJob>> queue_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<RestoreJob> reading_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<RestoreJob>> done_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace kvasir
