// SessionIndex beside a full recount: sessions of several tenants change in every way that a
// session can, and after each change sums, counts and who is next are what a walk over all of them
// finds.
#include "runtime/engine/sessions/session_index.h"

#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine/sessions/session_store.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::AllSchemes;
using testing::TinyLayout;

class SessionIndexTest : public ::testing::Test {
 protected:
  static constexpr int kTenants = 4;
  static constexpr int kMaxSessions = 40;

  SessionIndexTest() {
    KvCacheConfig config;
    config.capacity_bytes = 400 * static_cast<int64_t>(TinyLayout(AllSchemes()[1]).block_bytes());
    kv_ = KvCacheManager::Create(TinyLayout(AllSchemes()[1]), config).value();
    for (int i = 0; i < kTenants; ++i) {
      tenants_[i].id = std::string(1, static_cast<char>('a' + i));
      tenants_[i].policy.weight = 1 + i;
    }
  }

  int Random(int below) { return static_cast<int>(random_() % static_cast<unsigned>(below)); }

  void Change() {
    if (sessions_.empty() || (Random(20) == 0 && sessions_.size() < kMaxSessions)) {
      auto session = std::make_unique<Session>();
      session->tenant = &tenants_[Random(kTenants)];
      session->id = std::to_string(next_id_++);
      session->table = kv_->NewTable();
      sessions_.push_back(std::move(session));
      return index_.Update(sessions_.back().get());
    }
    const int chosen = Random(static_cast<int>(sessions_.size()));
    Session* const session = sessions_[chosen].get();
    switch (Random(6)) {
      case 0:
        if (Random(4) == 0) {
          index_.Remove(session);
          sessions_.erase(sessions_.begin() + chosen);
          return;
        }
        break;
      case 1:
        session->busy = !session->busy;
        break;
      case 2:
        session->table = kv_->NewTable();
        ASSERT_TRUE(kv_->Reserve(&session->table, Random(100)));
        break;
      case 3:
        session->spilled = !session->spilled;
        session->spilled_bytes = session->spilled ? Random(1000) : 0;
        break;
      case 4:
        session->restore = session->restore == nullptr ? std::make_shared<RestoreJob>() : nullptr;
        break;
      case 5:
        session->last_used = absl::FromUnixSeconds(Random(20));  // often equal
        break;
    }
    index_.Update(session);
  }

  // The session that a walk finds: of the tenant with the largest share, then the oldest.
  Session* Walk(bool (*in_role)(const Session&), double (*share)(const TenantState&)) const {
    Session* next = nullptr;
    const auto key = [&](const Session& s) {
      return std::make_tuple(-share(*s.tenant), s.last_used, s.tenant->id, s.id);
    };
    for (const auto& session : sessions_) {
      if (!in_role(*session)) continue;
      if (next == nullptr || key(*session) < key(*next)) next = session.get();
    }
    return next;
  }

  void CheckAgainstAWalk() const {
    SessionIndex::Counts counts;
    int64_t pool_bytes = 0, of_tenant[kTenants] = {}, on_disk[kTenants] = {};
    for (const auto& session : sessions_) {
      const auto tenant = session->tenant - tenants_;
      if (session->spilled) on_disk[tenant] += session->spilled_bytes;
      if (session->restore == nullptr) {
        pool_bytes += session->table.held_bytes();
        of_tenant[tenant] += session->table.held_bytes();
      }
      ++(session->restore != nullptr ? counts.restoring
         : session->busy             ? counts.busy
         : !session->table.empty()   ? counts.idle
         : session->spilled          ? counts.spilled
                                     : counts.evicted);
    }
    ASSERT_EQ(index_.counts(), counts);
    ASSERT_EQ(index_.pool_bytes(), pool_bytes);
    for (int i = 0; i < kTenants; ++i) {
      ASSERT_EQ(tenants_[i].session_bytes, of_tenant[i]);
      ASSERT_EQ(tenants_[i].spilled_bytes, on_disk[i]);
    }
    const auto idle = [](const Session& s) { return !s.busy && s.restore == nullptr; };
    const auto in_pool = [](const Session& s) { return !s.table.empty() && s.restore == nullptr; };
    const auto stored = [](const Session& s) { return s.spilled && s.restore == nullptr; };
    const auto bytes = [](const TenantState& t) {
      return static_cast<double>(t.session_bytes) / t.policy.weight;
    };
    const auto equal = [](const TenantState&) { return 0.0; };
    const auto anybody = [](const TenantState&) { return true; };
    ASSERT_EQ(index_.OldestIdle(), Walk(idle, equal));
    ASSERT_EQ(index_.Next(SessionRole::kIdle, anybody, bytes), Walk(idle, bytes));
    ASSERT_EQ(index_.Next(SessionRole::kInPool, anybody, bytes), Walk(in_pool, bytes));
    ASSERT_EQ(index_.Next(SessionRole::kOnDisk, anybody, bytes), Walk(stored, bytes));
  }

  std::unique_ptr<KvCacheManager> kv_;
  TenantState tenants_[kTenants];
  std::vector<std::unique_ptr<Session>> sessions_;
  SessionIndex index_;
  int next_id_ = 0;
  std::mt19937 random_{11};
};

TEST_F(SessionIndexTest, EqualsAFullRecountAfterEveryChange) {
  for (int change = 0; change < 100000; ++change) {
    Change();
    if (HasFatalFailure()) return;
    CheckAgainstAWalk();
    if (HasFatalFailure()) FAIL() << "after change " << change;
  }
}

}  // namespace
}  // namespace kvasir
