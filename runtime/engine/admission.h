// Who may enter an engine, decided before a prompt is tokenised: a daemon that is asked too much
// does no work for what it refuses. Bounded are the queue as a whole and, per tenant, requests
// alive, requests and prompt tokens in the queue, and tokens per minute (TenantLimits).
//
// Tokens per minute are a bucket that holds a minute's worth and fills evenly. A request takes all
// that it may use, prompt and max_tokens of each completion, and gives back in the end what it did
// not: so a tenant never gets more than a minute's worth at once and the quota over time. Counted
// is what the engine computes: prompt tokens found cached are free.
//
// AdmissionLimiter: thread safe; its lock is held for a few additions. AdmissionTicket: one
// admitted request, move-only; everything it holds returns when it dies, also without ever having
// run. The limiter must outlive its tickets.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "runtime/engine/tenants/tenant_policy.h"

namespace kvasir {

class AdmissionLimiter;
struct AdmissionAccount;

// What a request will ask of the engine.
struct AdmissionRequest {
  std::string tenant = {};
  int64_t prompt_tokens = 0;  // about
  int64_t max_tokens = 0;     // per completion
  int64_t n = 1;              // completions
};

class AdmissionTicket {
 public:
  AdmissionTicket() = default;  // holds nothing
  AdmissionTicket(AdmissionTicket&& other) noexcept { *this = std::move(other); }
  AdmissionTicket& operator=(AdmissionTicket&& other) noexcept {
    std::swap(limiter_, other.limiter_);
    std::swap(account_, other.account_);
    std::swap(prompt_tokens_, other.prompt_tokens_);
    std::swap(reserved_tokens_, other.reserved_tokens_);
    std::swap(waits_, other.waits_);
    return *this;
  }
  ~AdmissionTicket();

  // The prompt is tokenised: what was a guess becomes exact.
  void SetPromptTokens(int64_t tokens);
  // The request is scheduled for the first time.
  void LeaveQueue();
  // The request ended after this many tokens were computed for it. Without this, none were.
  void Settle(int64_t tokens);

 private:
  friend class AdmissionLimiter;

  AdmissionLimiter* limiter_ = nullptr;
  AdmissionAccount* account_ = nullptr;
  int64_t prompt_tokens_ = 0;
  int64_t reserved_tokens_ = 0;  // taken from the bucket and not used
  bool waits_ = false;
};

class AdmissionLimiter {
 public:
  // `max_waiting`, `max_waiting_tokens`: of all tenants together. `clock` outlives this.
  AdmissionLimiter(int64_t max_waiting, int64_t max_waiting_tokens, TenantPolicies policies,
                   const Clock* clock);
  ~AdmissionLimiter();

  // ResourceExhausted, with what there is and the limit, when a bound would be passed: a tenant's
  // (RefusalError, with the time until it can be kept where that is known) or the queue's. An empty
  // queue admits one request of any length. FailedPrecondition when a quota can never
  // be kept.
  absl::StatusOr<AdmissionTicket> Admit(const AdmissionRequest& request);

  // New quotas for requests to come.
  void UpdateTenants(TenantPolicies policies);

  size_t num_tenants() const;  // known, not forgotten
  // Takes no lock.
  int64_t waiting_tokens() const { return waiting_tokens_; }

 private:
  friend class AdmissionTicket;
  using Account = AdmissionAccount;

  // Tenants that are not named, hold nothing and whose bucket is full are forgotten when there are
  // this many more than there were.
  static constexpr size_t kForgetEvery = 256;

  Account* Find(const std::string& tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckQuotas(const Account& account, const AdmissionRequest& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckQueue(int64_t prompt_tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Lets the bucket fill up to now.
  void Fill(Account* account, absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveQueue(AdmissionTicket* ticket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t max_waiting_;
  const int64_t max_waiting_tokens_;
  const Clock* const clock_;

  mutable absl::Mutex mutex_;
  TenantPolicies policies_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, std::unique_ptr<Account>> accounts_ ABSL_GUARDED_BY(mutex_);
  size_t forget_at_ ABSL_GUARDED_BY(mutex_) = kForgetEvery;
  int64_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<int64_t> waiting_tokens_{0};  // written under mutex_
};

}  // namespace kvasir
