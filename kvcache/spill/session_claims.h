// Which process may go on with a session whose file stands in a directory that several share.
//
// Whoever uses a session holds a claim on it: a lock on one byte of the file `claims.lock`, at a
// place that the session's name gives (open file description locks, fcntl(2)). Nobody else gets it
// until it is let go, and the kernel lets go for a process that ended, by kill -9 too. A process
// holds a claim while a turn, a fork or a removal of its own is under way, and as long as what it
// has in memory is newer than any file. With the claim it learns once how the session stands on the
// disk.
//
// Thread safe. Acquire and IfUnclaimed do I/O, the others a system call at most.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/annotated_mutex.h"
#include "kvcache/spill/kv_spill_file.h"

namespace kvasir {

// A session in the directory when this process took hold of it.
struct ClaimedState {
  enum class Kind {
    kNothing,    // it never was, or was removed
    kUnchanged,  // the file is the one that this process wrote or read last
    kPushedOut,  // that file made room for others, and nobody has gone on with the session
    kFile,       // a file that this process does not know
    kLost,       // what stood here was gone on with, and that ended with the process that had it
  };
  Kind kind = Kind::kNothing;
  // kFile:
  SpillHeader header;
  int64_t file_bytes = 0;
  absl::Time time;
  SpillChecksum identity{};
};

class SessionClaims;

// Given back when it is destroyed.
class SessionClaim {
 public:
  SessionClaim(const SessionClaim&) = delete;
  SessionClaim& operator=(const SessionClaim&) = delete;
  ~SessionClaim();

  // What this process still has to take note of, by the one thread that keeps its sessions; null
  // when an earlier holder has, or this process has held the claim all along. Good until Settle.
  const ClaimedState* state() const;
  // It has taken note, or will never have to.
  void Settle();

 private:
  friend class SessionClaims;
  struct Entry;
  SessionClaim(std::shared_ptr<SessionClaims> claims, std::string stem,
               std::shared_ptr<Entry> entry);

  const std::shared_ptr<SessionClaims> claims_;
  const std::string stem_;
  const std::shared_ptr<Entry> entry_;
};

class SessionClaims : public std::enable_shared_from_this<SessionClaims> {
 public:
  // Makes the lock file in the directory if need be. The system's error.
  static absl::StatusOr<std::shared_ptr<SessionClaims>> Open(int directory_fd);
  ~SessionClaims();

  // `stem`: SpillFileStem(id). `look` finds out how the session stands; it is called when this
  // process did not have the claim, while others wait. Aborted when another process has it;
  // Unavailable when the file system gives no locks; the error of `look`.
  absl::StatusOr<std::shared_ptr<SessionClaim>> Acquire(
      const std::string& stem, absl::FunctionRef<absl::StatusOr<ClaimedState>()> look);

  // Keeps a claim that is held, beyond the life of its SessionClaims; and no longer.
  void Keep(const std::string& stem);
  void LetGo(const std::string& stem);

  // Runs `work` if nobody has the session, with nobody else getting it meanwhile. False if somebody
  // has. `work` must not call this.
  bool IfUnclaimed(const std::string& stem, absl::FunctionRef<void()> work);

 private:
  friend class SessionClaim;
  explicit SessionClaims(int lock_fd) : lock_fd_(lock_fd) {}
  absl::Status Lock(const std::string& stem) const;
  void Unlock(const std::string& stem) const;
  void Drop(const std::string& stem, const std::shared_ptr<SessionClaim::Entry>& entry)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void DropIfUnused(const std::string& stem, const SessionClaim::Entry& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int lock_fd_;
  AnnotatedMutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<SessionClaim::Entry>> entries_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvasir
