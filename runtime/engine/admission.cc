#include "runtime/engine/admission.h"

#include <algorithm>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/engine/refusal.h"

namespace kvasir {
namespace {

// A place becomes free when a request ends, which takes about this long for a short answer on a
// CPU.
constexpr absl::Duration kPlaceRetry = absl::Seconds(1);

// Nothing becomes free under a limit of none.
std::optional<absl::Duration> RetryUnder(int64_t limit) {
  if (limit == 0) return std::nullopt;
  return kPlaceRetry;
}

}  // namespace

// One tenant's; guarded by the limiter's mutex.
struct AdmissionAccount {
  std::string tenant;
  TenantLimits limits;
  int64_t requests = 0;  // tickets alive; while there are any, the account stays
  int64_t waiting = 0;
  int64_t waiting_tokens = 0;
  double missing_tokens = 0;  // in the bucket, to a minute's worth
  absl::Time filled_at;
};

AdmissionTicket::~AdmissionTicket() {
  if (limiter_ == nullptr) return;
  absl::MutexLock lock(&limiter_->mutex_);
  limiter_->LeaveQueue(this);
  account_->missing_tokens =
      std::max(0.0, account_->missing_tokens - static_cast<double>(reserved_tokens_));
  --account_->requests;
}

void AdmissionTicket::SetPromptTokens(int64_t tokens) {
  if (limiter_ == nullptr) return;
  absl::MutexLock lock(&limiter_->mutex_);
  const int64_t more = tokens - prompt_tokens_;
  prompt_tokens_ = tokens;
  reserved_tokens_ += more;
  account_->missing_tokens = std::max(0.0, account_->missing_tokens + static_cast<double>(more));
  if (!waits_) return;
  account_->waiting_tokens += more;
  limiter_->waiting_tokens_ += more;
}

void AdmissionTicket::LeaveQueue() {
  if (limiter_ == nullptr) return;
  absl::MutexLock lock(&limiter_->mutex_);
  limiter_->LeaveQueue(this);
}

void AdmissionTicket::Settle(int64_t tokens) { reserved_tokens_ -= tokens; }

AdmissionLimiter::AdmissionLimiter(int64_t max_waiting, int64_t max_waiting_tokens,
                                   TenantPolicies policies, const Clock* clock)
    : max_waiting_(max_waiting),
      max_waiting_tokens_(max_waiting_tokens),
      clock_(clock),
      policies_(std::move(policies)) {}

AdmissionLimiter::~AdmissionLimiter() = default;

absl::StatusOr<AdmissionTicket> AdmissionLimiter::Admit(const AdmissionRequest& request) {
  absl::MutexLock lock(&mutex_);
  Account* const account = Find(request.tenant);
  Fill(account, clock_->Now());
  KVASIR_RETURN_IF_ERROR(CheckQuotas(*account, request));
  KVASIR_RETURN_IF_ERROR(CheckQueue(request.prompt_tokens));

  AdmissionTicket ticket;
  ticket.limiter_ = this;
  ticket.account_ = account;
  ticket.prompt_tokens_ = request.prompt_tokens;
  ticket.reserved_tokens_ = request.prompt_tokens + request.max_tokens * request.n;
  ticket.waits_ = true;
  ++account->requests;
  ++account->waiting;
  account->waiting_tokens += request.prompt_tokens;
  account->missing_tokens += static_cast<double>(ticket.reserved_tokens_);
  ++waiting_;
  waiting_tokens_ += request.prompt_tokens;
  return ticket;
}

absl::Status AdmissionLimiter::CheckQuotas(const Account& account,
                                           const AdmissionRequest& request) const {
  const TenantLimits& limits = account.limits;
  if (account.requests >= limits.max_requests) {
    return RefusalError({RefusalReason::kConcurrency, "max_requests", account.tenant,
                         RetryUnder(limits.max_requests)},
                        absl::StrCat(account.requests, " requests wait or run, the limit is ",
                                     limits.max_requests));
  }
  if (account.waiting >= limits.max_waiting) {
    return RefusalError(
        {RefusalReason::kQueueQuota, "max_waiting", account.tenant, RetryUnder(limits.max_waiting)},
        absl::StrCat(account.waiting, " requests wait, the limit is ", limits.max_waiting));
  }
  if (account.waiting > 0 &&
      account.waiting_tokens + request.prompt_tokens > limits.max_waiting_tokens) {
    return RefusalError(
        {RefusalReason::kQueueQuota, "max_waiting_tokens", account.tenant, kPlaceRetry},
        absl::StrCat(account.waiting_tokens, " prompt tokens wait, this request brings about ",
                     request.prompt_tokens, ", the limit is ", limits.max_waiting_tokens));
  }
  if (limits.tokens_per_minute == TenantLimits::kUnlimited) return absl::OkStatus();
  const int64_t wanted = request.prompt_tokens + request.max_tokens * request.n;
  const std::string wants =
      absl::StrCat("about ", request.prompt_tokens, " prompt tokens and up to ",
                   request.max_tokens * request.n, " of output");
  if (wanted > limits.tokens_per_minute) {
    return RefusalError(
        {RefusalReason::kRate, "tokens_per_minute", account.tenant, std::nullopt},
        absl::StrCat(wants, " are more than the limit of ", limits.tokens_per_minute,
                     " allows at once; lower max_tokens"));
  }
  const double per_minute = static_cast<double>(limits.tokens_per_minute);
  const double too_many = account.missing_tokens + static_cast<double>(wanted) - per_minute;
  if (too_many > 0) {
    return RefusalError(
        {RefusalReason::kRate, "tokens_per_minute", account.tenant,
         absl::Minutes(too_many / per_minute)},
        absl::StrCat(
            wants, " are wanted, ",
            std::max<int64_t>(0, static_cast<int64_t>(per_minute - account.missing_tokens)),
            " are left now of the limit of ", limits.tokens_per_minute));
  }
  return absl::OkStatus();
}

absl::Status AdmissionLimiter::CheckQueue(int64_t prompt_tokens) const {
  if (waiting_ >= max_waiting_) {
    return RefusalError(
        {RefusalReason::kQueueFull, "max_waiting", std::nullopt, kPlaceRetry},
        absl::StrCat("the queue is full: ", waiting_, " requests wait, the limit is ", max_waiting_,
                     "; try again later"));
  }
  if (waiting_ > 0 && waiting_tokens_ + prompt_tokens > max_waiting_tokens_) {
    return RefusalError(
        {RefusalReason::kQueueFull, "max_waiting_tokens", std::nullopt, kPlaceRetry},
        absl::StrCat("the queue is full: ", waiting_tokens(),
                     " prompt tokens wait, this request brings about ", prompt_tokens,
                     ", the limit is ", max_waiting_tokens_, "; try again later"));
  }
  return absl::OkStatus();
}

void AdmissionLimiter::Fill(Account* account, absl::Time now) const {
  const double minutes = std::max(0.0, absl::ToDoubleMinutes(now - account->filled_at));
  account->filled_at = now;
  const int64_t limit = account->limits.tokens_per_minute;
  account->missing_tokens =
      limit == TenantLimits::kUnlimited
          ? 0
          : std::max(0.0, account->missing_tokens - minutes * static_cast<double>(limit));
}

void AdmissionLimiter::LeaveQueue(AdmissionTicket* ticket) {
  if (!ticket->waits_) return;
  ticket->waits_ = false;
  --ticket->account_->waiting;
  ticket->account_->waiting_tokens -= ticket->prompt_tokens_;
  --waiting_;
  waiting_tokens_ -= ticket->prompt_tokens_;
}

AdmissionLimiter::Account* AdmissionLimiter::Find(const std::string& tenant) {
  if (const auto known = accounts_.find(tenant); known != accounts_.end())
    return known->second.get();
  if (accounts_.size() >= forget_at_) {
    const absl::Time now = clock_->Now();
    absl::erase_if(accounts_, [&](const auto& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      Account* const account = entry.second.get();
      Fill(account, now);
      return account->requests == 0 && account->missing_tokens == 0;
    });
    forget_at_ = accounts_.size() + kForgetEvery;
  }
  auto account = std::make_unique<Account>();
  account->tenant = tenant;
  account->limits = policies_.Of(tenant).limits;
  account->filled_at = clock_->Now();
  return accounts_.emplace(tenant, std::move(account)).first->second.get();
}

void AdmissionLimiter::UpdateTenants(TenantPolicies policies) {
  absl::MutexLock lock(&mutex_);
  policies_ = std::move(policies);
  const absl::Time now = clock_->Now();
  for (const auto& [tenant, account] : accounts_) {
    Fill(account.get(), now);  // at the old rate until now
    account->limits = policies_.Of(tenant).limits;
    account->missing_tokens =
        std::min(account->missing_tokens, static_cast<double>(account->limits.tokens_per_minute));
  }
}

size_t AdmissionLimiter::num_tenants() const {
  absl::MutexLock lock(&mutex_);
  return accounts_.size();
}

}  // namespace kvasir
