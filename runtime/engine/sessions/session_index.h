// SessionIndex: what all sessions come to, and which of them is next to give something up; kept
// with each change of a session, so that no step walks over them all.
//
// Owned and called by the session store. Borrows sessions from Update to Remove, and what it was
// told last of each is in Session::indexed. All calls are O(log sessions), Next O(tenants that have
// a session in the role). It keeps session_bytes and spilled_bytes of TenantState too.
#pragma once

#include <array>
#include <cstdint>
#include <set>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace kvasir {

struct Session;
struct TenantState;

// What a session can give up.
enum class SessionRole {
  kIdle,    // itself: no turn runs and nothing is being restored
  kInPool,  // blocks, which may be a busy session's whose turn waits
  kOnDisk,  // its file
};
inline constexpr int kNumSessionRoles = 3;

// As a session was counted last.
struct IndexedSession {
  bool known = false;
  std::array<bool, kNumSessionRoles> roles{};
  int state = 0;
  absl::Time last_used;
  int64_t pool_bytes = 0;
  int64_t spilled_bytes = 0;
};

class SessionIndex {
 public:
  struct Counts {
    int64_t idle = 0, busy = 0, spilled = 0, evicted = 0, restoring = 0;
    bool operator==(const Counts&) const = default;
  };

  // The session is new, or something of it has changed.
  void Update(Session* session);
  // It is about to go.
  void Remove(Session* session);

  const Counts& counts() const { return counts_; }
  // Of sessions that are not restoring, each block counted as often as sessions hold it.
  int64_t pool_bytes() const { return pool_bytes_; }

  // The least recently used session in the role, of the tenant or of all; null when there is none.
  Session* Oldest(SessionRole role, TenantState* tenant) const;
  Session* OldestIdle() const { return idle_.empty() ? nullptr : *idle_.begin(); }
  // The same of the tenant of those that `eligible` allows whose `share` is largest; of equal ones
  // the one with the oldest.
  Session* Next(SessionRole role, absl::FunctionRef<bool(const TenantState&)> eligible,
                absl::FunctionRef<double(const TenantState&)> share) const;

 private:
  struct Older {
    bool operator()(const Session* a, const Session* b) const;
  };
  using Order = std::set<Session*, Older>;

  int64_t& CountOf(int state);

  Counts counts_;
  int64_t pool_bytes_ = 0;
  Order idle_;  // of all tenants
  std::array<absl::flat_hash_map<TenantState*, Order>, kNumSessionRoles> by_tenant_;
};

}  // namespace kvasir
