#include "runtime/engine/sessions/session_index.h"

#include "base/check.h"
#include "runtime/engine/sessions/session_store.h"

namespace kvasir {
namespace {

enum State { kIdle, kBusy, kSpilled, kEvicted, kRestoring };

IndexedSession Describe(const Session& session) {
  const bool restoring = session.restore != nullptr;
  IndexedSession now;
  now.known = true;
  now.state = restoring                ? kRestoring
              : session.busy           ? kBusy
              : !session.table.empty() ? kIdle
              : session.spilled        ? kSpilled
                                       : kEvicted;
  now.last_used = session.last_used;
  // What a restoring one holds cannot be taken, so no bound asks for it.
  now.pool_bytes = restoring ? 0 : session.table.held_bytes();
  now.spilled_bytes = session.spilled ? session.spilled_bytes : 0;
  now.roles[static_cast<int>(SessionRole::kIdle)] = !session.busy && !restoring;
  now.roles[static_cast<int>(SessionRole::kInPool)] = !session.table.empty() && !restoring;
  now.roles[static_cast<int>(SessionRole::kOnDisk)] = session.spilled && !restoring;
  return now;
}

}  // namespace

bool SessionIndex::Older::operator()(const Session* a, const Session* b) const {
  if (a->indexed.last_used != b->indexed.last_used)
    return a->indexed.last_used < b->indexed.last_used;
  if (a->tenant != b->tenant) return a->tenant->id < b->tenant->id;
  return a->id < b->id;
}

int64_t& SessionIndex::CountOf(int state) {
  switch (state) {
    case kIdle:
      return counts_.idle;
    case kBusy:
      return counts_.busy;
    case kSpilled:
      return counts_.spilled;
    case kEvicted:
      return counts_.evicted;
    default:
      KVASIR_CHECK(state == kRestoring);
      return counts_.restoring;
  }
}

void SessionIndex::Update(Session* session) {
  Remove(session);
  IndexedSession& now = session->indexed;
  now = Describe(*session);
  ++CountOf(now.state);
  pool_bytes_ += now.pool_bytes;
  session->tenant->session_bytes += now.pool_bytes;
  session->tenant->spilled_bytes += now.spilled_bytes;
  for (int role = 0; role < kNumSessionRoles; ++role) {
    if (now.roles[role]) by_tenant_[role][session->tenant].insert(session);
  }
  if (now.roles[static_cast<int>(SessionRole::kIdle)]) idle_.insert(session);
}

void SessionIndex::Remove(Session* session) {
  IndexedSession& was = session->indexed;
  if (!was.known) return;
  --CountOf(was.state);
  pool_bytes_ -= was.pool_bytes;
  session->tenant->session_bytes -= was.pool_bytes;
  session->tenant->spilled_bytes -= was.spilled_bytes;
  for (int role = 0; role < kNumSessionRoles; ++role) {
    if (!was.roles[role]) continue;
    const auto order = by_tenant_[role].find(session->tenant);
    order->second.erase(session);
    if (order->second.empty()) by_tenant_[role].erase(order);
  }
  if (was.roles[static_cast<int>(SessionRole::kIdle)]) idle_.erase(session);
  was = IndexedSession();
}

Session* SessionIndex::Oldest(SessionRole role, TenantState* tenant) const {
  const auto order = by_tenant_[static_cast<int>(role)].find(tenant);
  return order == by_tenant_[static_cast<int>(role)].end() ? nullptr : *order->second.begin();
}

Session* SessionIndex::Next(SessionRole role, absl::FunctionRef<bool(const TenantState&)> eligible,
                            absl::FunctionRef<double(const TenantState&)> share) const {
  Session* next = nullptr;
  double most = 0;
  for (const auto& [tenant, order] : by_tenant_[static_cast<int>(role)]) {
    if (!eligible(*tenant)) continue;
    const double share_now = share(*tenant);
    Session* const oldest = *order.begin();
    if (next == nullptr || share_now > most || (share_now == most && Older()(oldest, next))) {
      next = oldest;
      most = share_now;
    }
  }
  return next;
}

}  // namespace kvasir
