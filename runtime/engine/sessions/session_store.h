// Sessions: the history of a conversation and its K/V, kept between turns under (tenant, id).
//
// A session is busy while a turn runs, else idle. Its blocks may stand in the pool, on disk
// (spilled), on the way from there (restoring: it holds the blocks that are being filled, and
// neither they nor it can be taken), or nowhere (evicted: the next turn computes the history again,
// or finds parts of it in the prefix cache). What it knows of its history (token ids) stays in any
// case, until TTL, DeleteSession or the bound on sessions ends it.
//
// A turn borrows the blocks (Lend) and ends in one of two ways: Commit replaces history and blocks;
// Rollback leaves the session as it was before the turn.
//
// Tenants bound each other: where sessions, blocks or room on the disk are short, the tenant that
// is furthest in for its weight gives its least recently used session first. Quotas of a tenant
// (TenantLimits) are kept the same way, among its own sessions only.
//
// With a spill directory that other replicas share, a session's newest state is whose claim it is:
// a turn, a fork or a removal begins with the claim and with what was found then (Adopt); its end
// takes the former state away from all others (KvSpill::Supersede) and writes the new one, and the
// claim is free again when that stands on the disk. What this replica has in memory beyond that is
// a copy, used again if nobody went on with the session meanwhile.
//
// Owned and called by the engine thread. Spill files are written by KvSpill's thread and read back
// by RestoreWorker's; the engine thread copies out of the pool what is to be written, and removes
// files.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvcache/kv_cache_manager.h"
#include "kvcache/spill/kv_spill.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/engine_config.h"
#include "runtime/engine/engine_observer.h"
#include "runtime/engine/restore/restore_worker.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/sessions/session_index.h"
#include "runtime/engine/sessions/spill_id.h"
#include "runtime/engine/tenants/tenant_table.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

struct Session {
  TenantState* tenant = nullptr;
  std::string id;
  std::vector<TokenId> tokens;  // the history; table covers a beginning of it
  BlockTable table;             // empty while lent, spilled or evicted
  bool busy = false;
  bool forking = false;                 // busy not with a turn, but until it is there to be forked
  std::shared_ptr<RestoreJob> restore;  // while restoring: fills table
  Sequence* reader = nullptr;           // that the restore is for; null once it ended
  bool spilled = false;                 // a spill file holds a beginning of tokens
  int64_t spilled_bytes = 0;            // of that file, header not counted
  int32_t spilled_tokens = 0;           // whose K/V it holds
  int32_t turns = 0;
  // K/V from here on came from sparse attention: other requests must not find them.
  int32_t findable_tokens = std::numeric_limits<int32_t>::max();
  bool long_context = false;  // the kind of context that the K/V was computed for
  CacheSalt cache_salt = {};  // of the turn that computed it
  absl::Time last_used;
  // With a shared spill directory: while it is busy.
  std::shared_ptr<SessionClaim> claim;
  IndexedSession indexed;  // SessionIndex's
};

class SessionStore {
 public:
  // `spill` may be null: sessions under pressure are then dropped from the pool and recomputed.
  // `restorer` reads them back; null without spill.
  SessionStore(const EngineConfig& config, KvCacheManager* kv, KvSpill* spill,
               RestoreWorker* restorer, TenantTable* tenants, EngineObserver* observer);

  // Finds the sessions that a former run of the daemon spilled.
  void LoadSpilled(absl::Time now);

  // Starts a turn; makes the session if it is not known. Aborted when a turn is running;
  // ResourceExhausted when max_sessions are known, of this tenant or in all, and all are busy;
  // FailedPrecondition when there may never be as many as it takes (refusal.h both).
  // With a claim, after Adopt, whose errors it has too; `anew`: what was lost is no error, for the
  // turn brings the whole history.
  absl::StatusOr<Session*> BeginTurn(TenantState* tenant, const std::string& id, absl::Time now,
                                     std::shared_ptr<SessionClaim> claim = nullptr,
                                     bool anew = false);

  // Moves the blocks that hold the longest common beginning of the history and `tokens` into
  // `table`, but at most max_tokens. May leave `table` empty: what is on the disk only is not read.
  void Lend(Session* session, const std::vector<TokenId>& tokens, int max_tokens,
            BlockTable* table);
  // Undoes Lend for a turn that did not start.
  void GiveBack(Session* session, BlockTable table);

  void Commit(Session* session, std::vector<TokenId> tokens, BlockTable table, absl::Time now);
  // `tokens` and `table` as the failed turn leaves them; what agrees with the history is kept.
  void Rollback(Session* session, const std::vector<TokenId>& tokens, BlockTable table,
                absl::Time now);

  // ---- a shared spill directory (sessions/session_adopt.cc) ----

  // Takes note of what was found when the session was claimed; null: nothing. FailedPrecondition
  // when its newest state is lost, unless `anew`; Aborted when it is to be tried again; Create's
  // errors.
  absl::Status Adopt(TenantState* tenant, const std::string& id, SessionClaim* claim, bool anew,
                     absl::Time now);

  // ---- from disk (restore/session_restore.cc) ----

  // What of `tokens` is on the disk only.
  SpilledBlocks Spilled(const Session& session, const std::vector<TokenId>& tokens) const;
  // Begins to read that back, for `reader` if it is a turn's, into blocks that the session holds
  // from now on. False, with nothing changed but idle sessions' blocks, when there are no blocks or
  // no thread for it. Needs Spilled() bytes, and not later.
  bool StartRestore(Session* session, Sequence* reader);
  // The session whose K/V a fork needs: starts to restore it, and keeps it busy until the restore
  // has ended.
  enum class ForkSource { kReady, kRestoring, kLater };
  ForkSource PrepareFork(TenantState* tenant, const std::string& id, const std::string& new_id);
  // Whether that restore is under way.
  bool forking(const std::string& tenant, const std::string& id) const {
    const auto session = sessions_.find({tenant, id});
    return session != sessions_.end() && session->second->forking;
  }

  struct EndedRestore {
    Session* session = nullptr;
    Sequence* reader = nullptr;  // null when its turn is over already, or there was none
    bool restored = false;       // the session has its blocks; else the reader has to compute
  };
  // Takes note of a restore that is over: blocks that were filled are the session's, others are
  // given back; a file that is damaged or gone is told to the observer.
  EndedRestore EndRestore(const std::shared_ptr<RestoreJob>& job);

  // Brings every tenant's idle sessions and files within its quotas of bytes, which have changed.
  // Sessions above a lowered max_sessions stay until their TTL.
  void KeepQuotas();

  // Takes idle sessions' blocks until `enough` or none is left that may be taken; see
  // BlockSource::Reclaim. True if any were taken.
  bool Reclaim(const TenantState& asking, BlockDonors donors, absl::FunctionRef<bool()> enough);
  // Forgets sessions that were idle longer than the TTL.
  void Expire(absl::Time now);
  // The next moment when Expire has something to do.
  absl::Time next_expiry() const;
  // Spills every idle session (the daemon ends); tells the observer of each that is lost.
  void SpillAll();
  // Takes note of what the spill folder lost since the last call: a session whose file is not there
  // is evicted, and the observer is told. Cheap when nothing was.
  void NoticeLosses();

  // NotFound when unknown.
  absl::StatusOr<SessionSnapshot> Get(const std::string& tenant, const std::string& id,
                                      absl::Time now) const;
  // NotFound, AlreadyExists (new_id), Aborted (busy), and as BeginTurn for one session more.
  absl::StatusOr<SessionSnapshot> Fork(TenantState* tenant, const std::string& id,
                                       const std::string& new_id, absl::Time now,
                                       std::shared_ptr<SessionClaim> new_claim = nullptr);
  // NotFound, Aborted (busy), Adopt's.
  absl::Status DeleteClaimed(TenantState* tenant, const std::string& id, SessionClaim* claim,
                             absl::Time now);
  // Every session in the scope, largest physical bytes first.
  std::vector<SessionSnapshot> List(const TenantScope& scope, absl::Time now) const;

  const SessionIndex::Counts& counts() const { return index_.counts(); }

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, id
  using Map = std::map<Key, std::unique_ptr<Session>>;

  static std::string SpillId(const Session& session);
  // Of what a spill file says beside tokens and K/V: `tail`, the tokens behind those.
  static bool ParseMetadata(const std::string& metadata, Session* session,
                            std::vector<TokenId>* tail);
  static absl::Status LostError(const std::string& id);
  static absl::Status BeingRead(const std::string& id);
  // Writes what others may have to go on with, and lets go of the session.
  void WriteThrough(Session* session);
  // `needed`: sessions that must be there at once, this one included, for the call to succeed.
  absl::StatusOr<Session*> Create(TenantState* tenant, const std::string& id, int needed,
                                  absl::Time now);
  absl::StatusOr<Session*> FindIdle(const std::string& tenant, const std::string& id);
  // Brings the tenant's idle sessions within its quota of bytes, then all within the engine's
  // bound.
  void KeepIdleBounds(TenantState* tenant);
  // Takes the session's blocks from the pool, onto the disk if it can be.
  void Evict(Session* session, const char* reason);
  bool Spill(Session* session);
  // Drops the tenant's oldest spill files until `bytes` more fit its quota. False if they never do.
  bool MakeSpillRoom(TenantState* tenant, int64_t bytes);
  void DropSpillFile(Session* session);
  // The file is not the session's newest state any more.
  void Withdraw(Session* session);
  // Tells the observer of a session that cannot come back from the disk.
  void ReportLoss(const Session& session, absl::string_view why);
  void Forget(Session* session, const char* reason);
  SessionSnapshot Snapshot(const Session& session, absl::Time now) const;

  const EngineConfig& config_;
  KvCacheManager* const kv_;
  KvSpill* const spill_;
  RestoreWorker* const restorer_;  // null without spill_
  TenantTable* const tenants_;
  EngineObserver* const observer_;
  Map sessions_;
  std::vector<Session*> restoring_;
  SessionIndex index_;  // of sessions_, brought up to date by whoever changes one
};

}  // namespace kvasir
