#include "runtime/engine/sessions/session_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "runtime/engine/refusal.h"

namespace kvasir {
namespace {

// A turn of a busy session ends in about this time.
constexpr absl::Duration kSessionRetry = absl::Seconds(1);

size_t CommonPrefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  const size_t shorter = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + shorter, b.begin()).first - a.begin();
}

absl::Status NoSuchSession(const std::string& id) {
  return absl::NotFoundError(
      absl::StrCat("no session \"", id, "\": it was never made, was deleted, or expired"));
}

absl::Status Busy(const std::string& id) {
  return absl::AbortedError(
      absl::StrCat("session \"", id,
                   "\" is busy with a turn; wait for its end, abort it, or use another session"));
}

bool Anybody(const TenantState&) { return true; }

}  // namespace

absl::Status SessionStore::BeingRead(const std::string& id) {
  return absl::AbortedError(absl::StrCat(
      "session \"", id, "\" is still being read from the spill directory; try again in a moment"));
}

SessionStore::SessionStore(const EngineConfig& config, KvCacheManager* kv, KvSpill* spill,
                           RestoreWorker* restorer, TenantTable* tenants, EngineObserver* observer)
    : config_(config),
      kv_(kv),
      spill_(spill),
      restorer_(restorer),
      tenants_(tenants),
      observer_(observer) {}

absl::StatusOr<Session*> SessionStore::Create(TenantState* tenant, const std::string& id,
                                              int needed, absl::Time now) {
  const auto all_busy = [&](int64_t limit, std::optional<std::string> whose, int64_t sessions) {
    return RefusalError(
        {whose ? RefusalReason::kSessionQuota : RefusalReason::kSessionsFull, "max_sessions", whose,
         limit >= needed ? std::make_optional(kSessionRetry) : std::nullopt},
        absl::StrCat(sessions, " sessions are busy, the limit is ", limit));
  };
  const int64_t quota = tenant->policy.limits.max_sessions;
  if (tenant->sessions >= quota) {
    Session* const oldest = index_.Oldest(SessionRole::kIdle, tenant);
    if (oldest == nullptr) return all_busy(quota, tenant->id, tenant->sessions);
    Forget(oldest, "quota");
  }
  if (static_cast<int32_t>(sessions_.size()) >= config_.max_sessions) {
    Session* const oldest = index_.Next(SessionRole::kIdle, Anybody, [](const TenantState& other) {
      return static_cast<double>(other.sessions) / other.policy.weight;
    });
    if (oldest == nullptr) {
      return all_busy(config_.max_sessions, std::nullopt, static_cast<int64_t>(sessions_.size()));
    }
    Forget(oldest, "capacity");
  }
  auto session = std::make_unique<Session>();
  session->tenant = tenant;
  ++tenant->sessions;
  session->id = id;
  session->table = kv_->NewTable(tenant->scope);
  session->last_used = now;
  Session* const made =
      sessions_.emplace(Key(tenant->id, id), std::move(session)).first->second.get();
  index_.Update(made);
  return made;
}

absl::StatusOr<Session*> SessionStore::BeginTurn(TenantState* tenant, const std::string& id,
                                                 absl::Time now,
                                                 std::shared_ptr<SessionClaim> claim, bool anew) {
  if (absl::Status status = Adopt(tenant, id, claim.get(), anew, now); !status.ok()) return status;
  Session* session = nullptr;
  if (const auto known = sessions_.find({tenant->id, id}); known != sessions_.end()) {
    session = known->second.get();
    if (session->busy) return Busy(id);
  } else {
    absl::StatusOr<Session*> made = Create(tenant, id, 1, now);
    if (!made.ok()) return made.status();
    session = *made;
  }
  session->busy = true;
  session->claim = std::move(claim);
  session->last_used = now;
  index_.Update(session);
  return session;
}

void SessionStore::Lend(Session* session, const std::vector<TokenId>& tokens, int max_tokens,
                        BlockTable* table) {
  *table = std::move(session->table);
  session->table = kv_->NewTable(session->tenant->scope);
  const int common =
      static_cast<int>(std::min<size_t>(CommonPrefix(session->tokens, tokens), max_tokens));
  if (table->num_tokens() > common) kv_->Truncate(table, common);
  index_.Update(session);
}

void SessionStore::GiveBack(Session* session, BlockTable table) {
  session->table = std::move(table);
  index_.Update(session);
}

void SessionStore::Commit(Session* session, std::vector<TokenId> tokens, BlockTable table,
                          absl::Time now) {
  KVASIR_CHECK(session->restore == nullptr);
  // The file holds the history before this turn. Found again after a crash, it would silently
  // answer from there.
  Withdraw(session);
  kv_->Truncate(&table, table.num_tokens());  // blocks reserved for tokens that never came
  session->tokens = std::move(tokens);
  session->table = std::move(table);
  session->busy = false;
  session->turns += 1;
  session->last_used = now;
  observer_->OnSessionTurn(static_cast<int64_t>(kv_->Bytes(session->table).physical));
  index_.Update(session);
  KeepIdleBounds(session->tenant);
  WriteThrough(session);
}

void SessionStore::Withdraw(Session* session) {
  if (spill_ == nullptr) return;
  if (spill_->shared()) {
    spill_->Supersede(SpillId(*session));
  } else {
    spill_->Remove(SpillId(*session));  // whether or not it could be read
  }
  if (session->claim != nullptr) session->claim->Settle();
  session->spilled = false;
  session->spilled_bytes = 0;
}

void SessionStore::KeepIdleBounds(TenantState* tenant) {
  while (tenant->session_bytes > tenant->policy.limits.max_session_bytes)
    Evict(index_.Oldest(SessionRole::kInPool, tenant), "quota");
  while (index_.pool_bytes() > config_.max_idle_session_bytes) {
    Evict(index_.Next(SessionRole::kInPool, Anybody,
                      [](const TenantState& other) {
                        return static_cast<double>(other.session_bytes) / other.policy.weight;
                      }),
          "capacity");
  }
}

void SessionStore::KeepQuotas() {
  tenants_->ForEach([this](TenantState& tenant) {
    KeepIdleBounds(&tenant);
    MakeSpillRoom(&tenant, 0);
  });
}

void SessionStore::Rollback(Session* session, const std::vector<TokenId>& tokens, BlockTable table,
                            absl::Time now) {
  const int common = static_cast<int>(CommonPrefix(session->tokens, tokens));
  if (table.num_tokens() > 0) {
    kv_->Truncate(&table, std::min(common, table.num_tokens()));
    session->table = std::move(table);
  }
  if (session->restore != nullptr) {  // the file stays, and the next turn reads it again
    session->reader = nullptr;
    restorer_->Abandon(session->restore.get());
  }
  session->busy = false;
  session->claim = nullptr;
  session->last_used = now;
  if (session->turns == 0) {
    Forget(session, nullptr);  // its first turn failed: it never was
    return;
  }
  index_.Update(session);
  KeepIdleBounds(session->tenant);
}

bool SessionStore::Reclaim(const TenantState& asking, BlockDonors donors,
                           absl::FunctionRef<bool()> enough) {
  const auto share = [this](const TenantState& tenant) { return KvShare(*kv_, tenant); };
  bool freed = false;
  while (!enough()) {
    const double share_of_asking = share(asking);
    // Sessions whose turn waits in the queue are busy, but their blocks may be taken like any idle
    // one's.
    Session* const next = index_.Next(
        SessionRole::kInPool,
        [&](const TenantState& tenant) {
          if (&tenant == &asking || donors == BlockDonors::kAll) return true;
          return donors == BlockDonors::kFair && share(tenant) >= share_of_asking;
        },
        share);
    if (next == nullptr) break;
    Evict(next, nullptr);
    freed = true;
  }
  return freed;
}

void SessionStore::Expire(absl::Time now) {
  while (next_expiry() <= now) Forget(index_.OldestIdle(), "ttl");
}

absl::Time SessionStore::next_expiry() const {
  const Session* const oldest = index_.OldestIdle();
  return oldest == nullptr ? absl::InfiniteFuture() : oldest->last_used + config_.session_ttl;
}

absl::StatusOr<SessionSnapshot> SessionStore::Get(const std::string& tenant, const std::string& id,
                                                  absl::Time now) const {
  const auto session = sessions_.find({tenant, id});
  if (session == sessions_.end()) return NoSuchSession(id);
  return Snapshot(*session->second, now);
}

absl::StatusOr<Session*> SessionStore::FindIdle(const std::string& tenant, const std::string& id) {
  const auto session = sessions_.find({tenant, id});
  if (session == sessions_.end()) return NoSuchSession(id);
  if (session->second->busy) return Busy(id);
  if (session->second->restore != nullptr) return BeingRead(id);
  return session->second.get();
}

absl::StatusOr<SessionSnapshot> SessionStore::Fork(TenantState* tenant, const std::string& id,
                                                   const std::string& new_id, absl::Time now,
                                                   std::shared_ptr<SessionClaim> new_claim) {
  absl::StatusOr<Session*> source = FindIdle(tenant->id, id);
  if (!source.ok()) return source.status();
  if (sessions_.contains({tenant->id, new_id})) {
    return absl::AlreadyExistsError(
        absl::StrCat("session \"", new_id, "\" exists; delete it or choose another name"));
  }
  (*source)->busy = true;  // so that making room for the new one does not forget it
  index_.Update(*source);
  absl::StatusOr<Session*> made = Create(tenant, new_id, 2, now);
  (*source)->busy = false;
  index_.Update(*source);
  if (!made.ok()) return made.status();
  (*made)->tokens = (*source)->tokens;
  (*made)->findable_tokens = (*source)->findable_tokens;
  (*made)->long_context = (*source)->long_context;
  (*made)->cache_salt = (*source)->cache_salt;
  (*made)->turns = (*source)->turns;
  (*made)->table = kv_->Fork((*source)->table);
  (*source)->last_used = now;
  (*made)->claim = std::move(new_claim);
  Withdraw(*made);
  index_.Update(*source);
  index_.Update(*made);
  KeepIdleBounds(tenant);
  WriteThrough(*made);
  return Snapshot(**made, now);
}

std::vector<SessionSnapshot> SessionStore::List(const TenantScope& scope, absl::Time now) const {
  std::vector<SessionSnapshot> list;
  for (const auto& [key, session] : sessions_) {
    if (!scope || key.first == *scope) list.push_back(Snapshot(*session, now));
  }
  std::stable_sort(list.begin(), list.end(),
                   [](const SessionSnapshot& a, const SessionSnapshot& b) {
                     return a.kv_bytes_physical > b.kv_bytes_physical;
                   });
  return list;
}

void SessionStore::Evict(Session* session, const char* reason) {
  const bool spilled = Spill(session);
  session->table = kv_->NewTable(session->tenant->scope);
  index_.Update(session);
  if (!spilled && spill_ != nullptr) reason = "spill_refused";  // its queue or its limits
  observer_->OnSessionEvicted(reason != nullptr ? reason : (spilled ? "spilled" : "dropped"));
}

bool SessionStore::MakeSpillRoom(TenantState* tenant, int64_t bytes) {
  const int64_t quota = tenant->policy.limits.max_spill_bytes;
  if (bytes > quota) return false;
  while (tenant->spilled_bytes > quota - bytes) {
    Session* const oldest = index_.Oldest(SessionRole::kOnDisk, tenant);
    if (oldest == nullptr) return false;
    DropSpillFile(oldest);
    observer_->OnSessionEvicted("spill_quota");
  }
  return true;
}

void SessionStore::Forget(Session* session, const char* reason) {
  KVASIR_CHECK(session->restore == nullptr);
  if (spill_ != nullptr && spill_->shared()) {
    spill_->Forget(SpillId(*session));
  } else {
    DropSpillFile(session);
  }
  index_.Remove(session);
  --session->tenant->sessions;
  sessions_.erase(Key(session->tenant->id, session->id));
  if (reason != nullptr) observer_->OnSessionEvicted(reason);
}

SessionSnapshot SessionStore::Snapshot(const Session& session, absl::Time now) const {
  SessionSnapshot snapshot;
  snapshot.id = session.id;
  snapshot.tenant = session.tenant->id;
  snapshot.tokens = static_cast<int32_t>(session.tokens.size());
  snapshot.turns = session.turns;
  const KvCacheManager::TableBytes bytes = kv_->Bytes(session.table);
  snapshot.kv_bytes_physical = static_cast<int64_t>(bytes.physical);
  snapshot.kv_bytes_exclusive = static_cast<int64_t>(bytes.exclusive);
  snapshot.kv_bytes_proportional = bytes.proportional;
  snapshot.state_bytes = session.table.state_bytes();
  snapshot.state = session.restore != nullptr ? SessionSnapshot::State::kRestoring
                   : session.busy             ? SessionSnapshot::State::kBusy
                   : !session.table.empty()   ? SessionSnapshot::State::kIdle
                   : session.spilled          ? SessionSnapshot::State::kSpilled
                                              : SessionSnapshot::State::kEvicted;
  snapshot.spilled_bytes = session.spilled ? session.spilled_bytes : 0;
  snapshot.idle = session.busy ? absl::ZeroDuration() : now - session.last_used;
  snapshot.expires_in =
      session.busy ? config_.session_ttl : session.last_used + config_.session_ttl - now;
  return snapshot;
}

}  // namespace kvasir
