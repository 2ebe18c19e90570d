// Idle sessions' KV on disk, so that a session outlives memory pressure and restarts of the daemon.
//
// Alone, it has a directory of its own: it is locked against a second process, files of another
// model or block format are removed at Open, and the oldest files go when the size limit asks for
// it. Several replicas can share one (`shared`): then a session is found when it is claimed, and
// only who has the claim on it reads, replaces or removes its file (session_claims.h). The files of
// one model and block format stand in a folder of theirs, and files leave a marker when they go,
// but for those that are removed or too old: a state that was gone on with and lost is told from a
// session that never was.
//
// One background thread writes; a bounded queue feeds it. A file appears under its name only when
// it is complete and on the disk, and is believed only if its checksums agree. What is lost here
// costs a recomputation, never a wrong answer, and is told: by Restore's status, or by TakeLosses.
//
// Thread safe: any thread may call anything. SpillAsync never does I/O. Restore reads a file in the
// calling thread. The format of the files is kv_spill_file.h's.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/annotated_mutex.h"
#include "kvcache/spill/kv_spill_file.h"
#include "kvcache/spill/seen_files.h"
#include "kvcache/spill/session_claims.h"
#include "kvcache/spill/spill_directory.h"
#include "kvcache/spill/spill_index.h"

namespace kvasir {

struct KvSpillConfig {
  std::string directory;            // made if it does not exist (its parent must), mode 0700
  int64_t max_directory_bytes = 0;  // of all files; the oldest are removed to make room
  // Payload waiting to be written, the one being written included.
  int64_t max_queue_bytes = int64_t{256} << 20;
  int max_queue_jobs = 64;
  uint64_t layout_fingerprint = 0;     // KvLayout::fingerprint()
  std::string model_fingerprint = {};  // says "these weights", e.g. a digest of the checkpoint
  // Called by the writer thread with no lock held when a session could not be written (disk full,
  // no rights), after its loss can be taken; Flush waits for it, so it must not call Flush. May be
  // empty.
  std::function<void(const std::string& id, const absl::Status&)> on_write_error = nullptr;
  SpillRead read = nullptr;  // of payloads; for tests
  bool shared = false;       // with other replicas
  // Shared: files and markers go that this process has seen stand for so long, by the monotonic
  // clock (seen_files.h). None goes too soon, whatever was done to the clocks of the machines; one
  // that is met at the start has a whole age before it, as sessions that are alone on disk have.
  absl::Duration max_age = absl::InfiniteDuration();
};

// What a file says about itself.
struct SpilledInfo {
  std::string id;
  std::string metadata;  // the caller's, opaque
  int num_tokens = 0;
  int64_t bytes = 0;    // of the file
  absl::Time time;      // when it was written
  bool queued = false;  // not on the disk yet
};

// A session that is not on the disk although it was given to this, or a file that is not served.
struct SpillLoss {
  enum class Cause {
    kWriteFailed,  // disk full, quota, file size, no rights
    kDamaged,      // the file was removed
    kForeign,      // of another model, block format or version; the file was removed
    kUnreadable,   // the file stays for the operator to look at
    kPushedOut,    // by newer ones: max_directory_bytes; shared: or by age, or by other replicas
    kNotRemoved,   // a file that is not wanted any more could be neither removed nor emptied
  };
  Cause cause = Cause::kDamaged;
  std::string id;  // empty when the file did not tell
  std::string message;
};

struct SpilledSequence {
  std::string metadata;
  std::vector<int32_t> tokens;
  int64_t payload_bytes = 0;
};

struct KvSpillStats {
  int64_t files = 0;         // in the directory; shared: as of a few seconds ago
  int64_t bytes = 0;         // of those files
  int64_t queued_jobs = 0;   // the one being written included
  int64_t queued_bytes = 0;  // their payload
  int64_t written_total = 0;
  int64_t written_bytes_total = 0;
  int64_t restored_total = 0;
  int64_t restored_bytes_total = 0;
  int64_t damaged_total = 0;  // files removed because they did not hold what they should
  int64_t dropped_total = 0;  // sessions refused by a full queue, failed to write, pushed out by
                              // the size limit, or foreign
};

class KvSpill {
 public:
  // Finds the files that are there, reading headers only; removes temporaries of an interrupted
  // write, damaged and foreign files. InvalidArgument for a bad config; FailedPrecondition when
  // another process holds the directory; PermissionDenied, NotFound and the like when it cannot be
  // used, nor listed; Unavailable when the system gives no thread.
  static absl::StatusOr<std::unique_ptr<KvSpill>> Open(KvSpillConfig config);

  // Whether Open could use the directory now, which need not be there yet; Open's errors. Writes
  // nothing.
  static absl::Status CheckDirectory(const std::string& directory, bool shared);

  KvSpill(const KvSpill&) = delete;
  KvSpill& operator=(const KvSpill&) = delete;
  // Writes what is queued, then stops.
  ~KvSpill();

  // Queues a session for writing and returns. It replaces what is queued or on disk under `id`, the
  // latter even if the write fails later: an outdated state never passes for the current one.
  // `payload` is what KvCacheManager::ExportBlocks gave. False, with only dropped_total changed,
  // when the queue is full, the file could never fit the directory's limit, or id (1 to
  // kMaxSpillIdBytes), metadata (up to kMaxSpillMetadataBytes), tokens or payload (not empty) are
  // out of bounds; Remove(id) then if an older state must not be found.
  bool SpillAsync(absl::string_view id, absl::string_view metadata,
                  absl::Span<const int32_t> tokens, std::vector<uint8_t> payload);

  // Called once, with the header verified, and must return memory whose sizes sum to payload_bytes,
  // in order (e.g. KvCacheManager::ReserveForImport); its error becomes Restore's, and the file
  // stays.
  using PayloadTarget =
      absl::FunctionRef<absl::StatusOr<std::vector<absl::Span<uint8_t>>>(const SpilledSequence&)>;

  // Reads a session straight into the caller's memory; a session still queued is served from the
  // queue. The file stays (it remains a valid beginning of the session) until replaced or Removed.
  // NotFound when there is none, or its file is gone. DataLoss, saying what was wrong, when the
  // file is damaged: it is removed, and the target memory holds garbage. Cancelled, soon after
  // `abandoned`, which may be null, became true; the file stays.
  absl::StatusOr<SpilledSequence> Restore(absl::string_view id, PayloadTarget target,
                                          const std::atomic<bool>* abandoned = nullptr);

  // Forgets a session, queued or on disk, a file that Open could not read included: what a session
  // has gone on from must not be found by the next start. False if there was none. Takes as long
  // for a large file as for a small one. Shared: needs the claim, and leaves no marker.
  bool Remove(absl::string_view id);

  // ---- shared ----

  bool shared() const { return config_.shared; }
  // Takes hold of a session, which then nobody else can have, and looks how it stands. Reads a
  // file's header; never in the thread that steps. Aborted when another replica has it;
  // Unavailable, or what the system says.
  absl::StatusOr<std::shared_ptr<SessionClaim>> Claim(absl::string_view id);
  // What Claim found is known to who keeps the sessions from now on. The claim stays unsettled with
  // a lost session, whoever asks for it.
  void TakeNote(absl::string_view id, SessionClaim* claim);
  // With the claim: memory is newer than any file from now on. The claim stays with this process
  // until the session is written, removed or forgotten.
  void Supersede(absl::string_view id);
  // The file makes room, if nobody has the session.
  void PushOut(absl::string_view id);
  // This process keeps nothing of the session in memory. Its file is there for all to go on with.
  void Forget(absl::string_view id);

  bool Contains(absl::string_view id) const;

  // Oldest first.
  std::vector<SpilledInfo> List() const;

  // What was lost since the last call, files that Open found included, oldest first. Restore's own
  // findings are in its status alone. At most kMaxUntakenLosses are kept; stats() counts all.
  static constexpr size_t kMaxUntakenLosses = size_t{1} << 16;
  std::vector<SpillLoss> TakeLosses();
  // Whether there are any. Lock-free.
  bool has_losses() const { return has_losses_; }

  // Waits until everything queued before the call is written or has failed, and the disk has what
  // was removed back.
  void Flush();

  // Lock-free; each figure is exact, together they are a moment's blur.
  KvSpillStats stats() const;

 private:
  struct Job {
    SpillHeader header;
    std::vector<uint8_t> payload;
    absl::Time time;
  };
  struct Counters {
    std::atomic<int64_t> files{0}, bytes{0}, queued_jobs{0}, queued_bytes{0}, written_total{0},
        written_bytes_total{0}, restored_total{0}, restored_bytes_total{0}, damaged_total{0},
        dropped_total{0};
  };

  KvSpill(KvSpillConfig config, std::vector<SpillDirectory> directories);

  absl::Status ScanDirectory();
  void WriterLoop();
  // Writes the job's file and names it, unless it was cancelled meanwhile.
  absl::Status Write(const Job& job);
  // The header of `name`, verified and meant for us; other errors than the reader's:
  // FailedPrecondition for a file of another model or layout, DataLoss for one that holds another
  // id than `name` says.
  absl::StatusOr<SpillFileReader> OpenOurs(const std::string& name) const;
  absl::StatusOr<SpilledSequence> RestoreFromFile(const std::string& id, PayloadTarget target,
                                                  const std::atomic<bool>* abandoned);

  std::shared_ptr<const Job> FindJob(absl::string_view id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CancelJobs(absl::string_view id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool RemoveQueued(absl::string_view id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Shared: leaves a marker.
  bool RemoveFile(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes a name away; the writer thread gives the disk back, which takes long for a large file.
  absl::Status RemoveName(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // If the session's file is one of unreadable_, its bytes, which are still counted; it is no such
  // file any more.
  std::optional<int64_t> TakeUnreadable(const std::string& id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddFile(const std::string& id, SpillIndex::Entry entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Removes the oldest files until `bytes` more fit. Alone.
  void MakeRoom(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountQueued(const Job& job, int sign);
  void NoteLoss(SpillLoss::Cause cause, absl::string_view id, absl::string_view message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // shared_spill.cc
  absl::StatusOr<ClaimedState> Look(const std::string& id);
  // Counts what is there, removes what is too old or was left behind by a write, and the oldest
  // files until `bytes` more fit.
  void TidyShared(int64_t bytes);
  bool PushOutFile(const std::string& stem, std::vector<ReleasedFile>* released);
  void WriteMarker(const std::string& stem, const SpillChecksum& identity) const;
  // Of the files that were known before an order was given, only these are left.
  void NoteGone(const std::vector<std::string>& left, uint64_t before_order);

  // Constant after construction.
  const KvSpillConfig config_;
  const std::vector<SpillDirectory> directories_;  // hold the locks; the last one has the files
  const int directory_fd_;                         // of that one
  const uint64_t model_fingerprint_;
  std::shared_ptr<SessionClaims> claims_;  // null unless shared

  SeenFiles seen_;  // Open's, then the writer thread's

  Counters counters_;
  std::atomic<bool> has_losses_{false};

  mutable AnnotatedMutex mutex_;
  AnnotatedCondVar changed_;  // queue_, writing_, released_, releasing_, stopping_
  std::deque<std::shared_ptr<const Job>> queue_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Job> writing_ ABSL_GUARDED_BY(mutex_);
  bool writing_cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  SpillIndex index_ ABSL_GUARDED_BY(mutex_);
  // Shared: what was in files that made room, to be told from what others have gone on with.
  absl::flat_hash_map<std::string, SpillChecksum> pushed_out_ ABSL_GUARDED_BY(mutex_);
  // Files that Open could not read, or that could not be removed, by name, and their bytes. They
  // are counted, for they are there, and known to no session.
  absl::flat_hash_map<std::string, int64_t> unreadable_ ABSL_GUARDED_BY(mutex_);
  static constexpr size_t kMaxReleased = 64;                    // descriptors
  std::vector<ReleasedFile> released_ ABSL_GUARDED_BY(mutex_);  // the writer lets go of them
  bool releasing_ ABSL_GUARDED_BY(mutex_) = false;              // it does so now
  std::vector<SpillLoss> losses_ ABSL_GUARDED_BY(mutex_);

  std::thread writer_;
};

}  // namespace kvasir
