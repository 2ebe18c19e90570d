// Sessions: the history of a conversation and its K/V, kept between turns under (tenant, id).
//
// A session is busy while a turn runs, else idle. Its blocks may stand in the pool, on disk
// (spilled), or nowhere (evicted: the next turn computes the history again, or finds parts of it in
// the prefix cache). What it knows of its history (token ids) stays in any case, until TTL,
// DeleteSession or the bound on sessions ends it.
//
// A turn borrows the blocks (Lend) and ends in one of two ways: Commit replaces history and blocks;
// Rollback leaves the session as it was before the turn.
//
// Tenants bound each other: where sessions, blocks or room on the disk are short, the tenant that
// is furthest in for its weight gives its least recently used session first. Quotas of a tenant
// (TenantLimits) are kept the same way, among its own sessions only.
//
// Owned and called by the engine thread. Spill files are written by KvSpill's thread; a restore
// reads the file in the engine thread.
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
#include "kvcache/kv_spill.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/engine_config.h"
#include "runtime/engine/engine_observer.h"
#include "runtime/engine/model_runner.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/tenant_table.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

struct Session {
  TenantState* tenant = nullptr;
  std::string id;
  std::vector<TokenId> tokens;  // the history; table covers a beginning of it
  BlockTable table;             // empty while lent, spilled or evicted
  bool busy = false;
  bool spilled = false;       // a spill file holds a beginning of tokens
  int64_t spilled_bytes = 0;  // of that file, header not counted
  int32_t turns = 0;
  // K/V from here on came from sparse attention: other requests must not find them.
  int32_t findable_tokens = std::numeric_limits<int32_t>::max();
  bool long_context = false;  // the kind of context that the K/V was computed for
  absl::Time last_used;
};

class SessionStore {
 public:
  struct Counts {
    int64_t idle = 0, busy = 0, spilled = 0, evicted = 0;
  };

  // `spill` may be null: sessions under pressure are then dropped from the pool and recomputed.
  // `forward` completes blocks that come back from disk.
  SessionStore(const EngineConfig& config, KvCacheManager* kv, KvSpill* spill, ForwardPass* forward,
               TenantTable* tenants, EngineObserver* observer);

  // Finds the sessions that a former run of the daemon spilled.
  void LoadSpilled(absl::Time now);

  // Starts a turn; makes the session if it is not known. Aborted when a turn is running;
  // ResourceExhausted when max_sessions are known, of this tenant or in all, and all are busy;
  // FailedPrecondition when there may never be as many as it takes (refusal.h both).
  absl::StatusOr<Session*> BeginTurn(TenantState* tenant, const std::string& id, absl::Time now);

  // Moves the blocks that hold the longest common beginning of the history and `tokens` into
  // `table`, but at most max_tokens; reads them back from disk if they are there. May leave `table`
  // empty.
  void Lend(Session* session, const std::vector<TokenId>& tokens, int max_tokens,
            BlockTable* table);
  // Undoes Lend for a turn that did not start.
  void GiveBack(Session* session, BlockTable table);

  void Commit(Session* session, std::vector<TokenId> tokens, BlockTable table, absl::Time now);
  // `tokens` and `table` as the failed turn leaves them; what agrees with the history is kept.
  void Rollback(Session* session, const std::vector<TokenId>& tokens, BlockTable table,
                absl::Time now);

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
                                       const std::string& new_id, absl::Time now);
  // NotFound, Aborted (busy).
  absl::Status Delete(const std::string& tenant, const std::string& id);
  // Every session in the scope, largest physical bytes first.
  std::vector<SessionSnapshot> List(const TenantScope& scope, absl::Time now) const;

  const Counts& counts() const { return counts_; }
  // Bytes of idle sessions, each block counted as often as sessions hold it.
  int64_t idle_bytes() const { return idle_bytes_; }

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, id
  using Map = std::map<Key, std::unique_ptr<Session>>;

  static std::string SpillId(const Session& session);
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
  void Restore(Session* session);
  void DropSpillFile(Session* session);
  // Tells the observer of a session that cannot come back from the disk.
  void ReportLoss(const Session& session, absl::string_view why);
  void Forget(Map::iterator session, const char* reason);
  // The least recently used session that `eligible` allows, of the tenant of which `share` is
  // largest; end() when there is none.
  template <typename Eligible, typename Share>
  Map::iterator NextToGive(Eligible eligible, Share share);
  SessionSnapshot Snapshot(const Session& session, absl::Time now) const;
  void Recount();

  const EngineConfig& config_;
  KvCacheManager* const kv_;
  KvSpill* const spill_;
  ForwardPass* const forward_;
  TenantTable* const tenants_;
  EngineObserver* const observer_;
  Map sessions_;
  Counts counts_;
  int64_t idle_bytes_ = 0;
};

}  // namespace kvasir
