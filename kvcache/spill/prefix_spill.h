// Prefix blocks on disk: what the prefix cache evicts is written, one file per block of a group,
// and found again by the same name (block_hash.h), also after a restart and by other replicas.
//
// One background thread writes; a bounded queue feeds it. A file appears under its name only when
// it is complete and on the disk. It is believed only if its checksums agree and it says of itself
// what was asked for: model, block format, name, tokens. Others are removed and counted. Which
// files there are is known without a look at the disk (an index of at most max_files); the least
// recently used go when the limit asks for it. A write that fails stops writing for a while: a full
// disk is told once, and not with each block.
//
// Shared by replicas, files are what their names say whoever wrote them. Each replica looks through
// the folder every few seconds, for what others wrote or removed; a file that is gone when it is
// read is a miss and no more. The limit is that of all replicas together.
//
// What is lost here costs a computation, never a wrong answer.
//
// Thread safe: any thread may call anything. Take, Has and stats do no I/O and wait for none; Take
// copies. Read reads in the calling thread. Files have the format of kv_spill_file.h: the id is
// 16 bytes of digest and one number for the group, the metadata the parent's digest.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/annotated_mutex.h"
#include "kvcache/grouped_pool.h"
#include "kvcache/spill/kv_spill_file.h"
#include "kvcache/spill/prefix_directory.h"
#include "kvcache/spill/seen_files.h"

namespace kvasir {

struct PrefixSpillConfig {
  std::string spill_directory;  // must exist
  int64_t max_bytes = 0;        // of all files
  size_t max_files = size_t{1} << 18;
  int64_t max_queue_bytes = int64_t{256} << 20;  // of content, what is being written included
  uint64_t layout_fingerprint = 0;
  std::string model_fingerprint = {};
  bool shared = false;  // with other replicas
  // How long nothing is written after a failure.
  std::chrono::milliseconds pause = std::chrono::seconds(30);
  // How often a shared folder is looked through.
  std::chrono::milliseconds look_period = std::chrono::seconds(5);
  // Called by any thread when there is something for TakeFaults; must not call back. May be empty.
  std::function<void()> on_fault = nullptr;
  SpillRead read = nullptr;  // of content; for tests
};

struct PrefixSpillStats {
  int64_t files = 0;  // shared: as of a few seconds ago
  int64_t bytes = 0;
  int64_t queued_bytes = 0;
  int64_t written_total = 0;     // blocks
  int64_t read_total = 0;        // blocks, from the queue too
  int64_t pushed_out_total = 0;  // files that made room
  int64_t dropped_total = 0;     // evicted blocks that were not written: queue full, or paused
  int64_t failed_total = 0;      // writes, reads and removals that failed; files refused
};

class PrefixSpill : public EvictedBlocks {
 public:
  // Finds the files that are there, reading none; removes leftovers, and folders of other models
  // that nobody uses. InvalidArgument for a bad config; FailedPrecondition when another process
  // holds the folder; Unavailable when the system gives no thread; or what the system says.
  static absl::StatusOr<std::unique_ptr<PrefixSpill>> Open(PrefixSpillConfig config);

  PrefixSpill(const PrefixSpill&) = delete;
  PrefixSpill& operator=(const PrefixSpill&) = delete;
  // Writes what is queued, then stops.
  ~PrefixSpill() override;

  int64_t max_bytes() const { return config_.max_bytes; }
  // For KvCacheConfig: with another key nothing is found.
  const std::array<uint8_t, BlockHasher::kKeyBytes>& hash_key() const { return directory_.key(); }

  // Queues a block for writing, unless it is stored already.
  void Take(int group, const BlockDigest& digest, const BlockDigest& parent,
            absl::Span<const int32_t> tokens, absl::Span<const uint8_t> content) override;
  // From now on Take waits for room in the queue (the daemon ends).
  void BePatient();

  bool Has(int group, const BlockDigest& digest) const;

  // Fills `content`. NotFound when it is not there; DataLoss, saying what was wrong, when the file
  // is not what it should be, or what the system says: then it is removed, and content may hold
  // garbage. Cancelled soon after `abandoned`, which may be null, became true.
  absl::Status Read(int group, const BlockDigest& digest, const BlockDigest& parent,
                    absl::Span<const int32_t> tokens, absl::Span<uint8_t> content,
                    const std::atomic<bool>* abandoned = nullptr);

  // What failed since the last call, oldest first, to be told to the operator. At most
  // kMaxUntakenFaults are kept; stats() counts all.
  static constexpr size_t kMaxUntakenFaults = 256;
  std::vector<std::string> TakeFaults();
  // Whether there are any. Lock-free.
  bool has_faults() const { return has_faults_; }

  // Waits until everything queued before the call is written or has failed.
  void Flush();

  PrefixSpillStats stats() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Job {
    StoredBlockName name;
    SpillHeader header;
    std::vector<uint8_t> content;
  };
  struct Entry {
    int64_t bytes = 0;   // of the file
    uint64_t order = 0;  // of use: smaller is longer ago
  };

  PrefixSpill(PrefixSpillConfig config, uint64_t model_fingerprint, PrefixDirectory directory);

  SpillHeader HeaderOf(const StoredBlockName& name, const BlockDigest& parent,
                       absl::Span<const int32_t> tokens, int64_t content_bytes) const;
  // Brings the index up to what is in the folder.
  void Look();
  void WriterLoop();
  absl::Status Write(const Job& job);
  // Removes the least recently used files until `bytes` more fit. False when they never do, or a
  // file cannot be removed.
  bool MakeRoom(int64_t bytes);
  // False, and a fault, when it stays.
  bool RemoveFile(const StoredBlockName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(files_mutex_);
  void RemoveAgain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(files_mutex_);
  void ForgetNotRemoved(const StoredBlockName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReadFile(const std::string& file, const SpillHeader& wanted,
                        absl::Span<uint8_t> content, const std::atomic<bool>* abandoned) const;

  // As the most recently used.
  void Put(const StoredBlockName& name, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Its bytes; 0 when it is not there.
  int64_t Erase(const StoredBlockName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Stored(const StoredBlockName& name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fault(absl::string_view message);

  // Constant after construction.
  const PrefixSpillConfig config_;
  const PrefixDirectory directory_;
  const uint64_t model_fingerprint_;

  SeenFiles seen_temporaries_;  // Open's, then the writer thread's

  std::atomic<bool> has_faults_{false};

  // Held by who changes the folder and the index with it, so that they agree; taken before mutex_,
  // which nobody holds during I/O.
  AnnotatedMutex files_mutex_;

  mutable AnnotatedMutex mutex_;
  AnnotatedCondVar changed_;  // queue_, writing_, stopping_
  std::deque<std::shared_ptr<const Job>> queue_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Job> writing_ ABSL_GUARDED_BY(mutex_);
  // Of queue_ and writing_.
  absl::flat_hash_map<StoredBlockName, std::shared_ptr<const Job>> pending_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool patient_ ABSL_GUARDED_BY(mutex_) = false;
  Clock::time_point paused_until_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<StoredBlockName, Entry> index_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, StoredBlockName> by_use_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_order_ ABSL_GUARDED_BY(mutex_) = 0;
  // Files that the system did not let go, and their bytes, which are counted.
  absl::flat_hash_map<StoredBlockName, int64_t> not_removed_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> faults_ ABSL_GUARDED_BY(mutex_);
  PrefixSpillStats stats_ ABSL_GUARDED_BY(mutex_);

  std::thread writer_;
};

}  // namespace kvasir
