// The quotas that are kept at the door, with a fake clock: what is refused, when it says to come
// back, that this is true, and that everything taken is given back.
#include "runtime/engine/admission.h"

#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/refusal.h"
#include "tests/fakes/fake_clock.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;

class AdmissionTest : public ::testing::Test {
 protected:
  static TenantPolicies WithLimits(TenantLimits limits) {
    TenantPolicies policies;
    policies.named.resize(1);
    policies.named[0].id = "t";
    policies.named[0].limits = limits;
    return policies;
  }
  void SetLimits(TenantLimits limits, int64_t max_waiting = 1000, int64_t max_tokens = 1 << 20) {
    limiter_.emplace(max_waiting, max_tokens, WithLimits(limits), &clock_);
  }
  absl::StatusOr<AdmissionTicket> Admit(int64_t prompt_tokens, int64_t max_tokens = 0,
                                        const std::string& tenant = "t", int64_t n = 1) {
    return limiter_->Admit(
        {.tenant = tenant, .prompt_tokens = prompt_tokens, .max_tokens = max_tokens, .n = n});
  }

  // The refusal, after checking quota and code; its time to wait, if any.
  static std::optional<absl::Duration> Refusal(const absl::Status& status,
                                               const std::string& quota) {
    const auto refusal = RefusalOf(status);
    EXPECT_TRUE(refusal.has_value()) << status;
    if (!refusal) return std::nullopt;
    EXPECT_EQ(refusal->limit, quota);
    EXPECT_EQ(refusal->tenant, "t");
    EXPECT_EQ(status.code(), refusal->retry_after ? absl::StatusCode::kResourceExhausted
                                                  : absl::StatusCode::kFailedPrecondition);
    return refusal->retry_after;
  }

  FakeClock clock_;
  std::optional<AdmissionLimiter> limiter_;
};

TEST_F(AdmissionTest, RequestsAliveAreBounded) {
  SetLimits({.max_requests = 2});
  AdmissionTicket first = Admit(1).value();
  std::optional<AdmissionTicket> second = Admit(1).value();
  first.LeaveQueue();  // running is alive, too
  const absl::Status refused = Admit(1).status();
  EXPECT_TRUE(Refusal(refused, "max_requests").has_value());
  EXPECT_THAT(std::string(refused.message()), HasSubstr("2 requests wait or run, the limit is 2"));
  EXPECT_TRUE(Admit(1, 0, "someone").ok());
  second.reset();
  EXPECT_TRUE(Admit(1).ok());
}

TEST_F(AdmissionTest, ALimitOfNoRequestsIsNothingToWaitFor) {
  SetLimits({.max_requests = 0});
  EXPECT_FALSE(Refusal(Admit(1).status(), "max_requests").has_value());
}

TEST_F(AdmissionTest, TheQueueOfATenantIsBounded) {
  SetLimits({.max_waiting = 2});
  AdmissionTicket first = Admit(1).value(), second = Admit(1).value();
  EXPECT_TRUE(Refusal(Admit(1).status(), "max_waiting").has_value());
  EXPECT_TRUE(Admit(1, 0, "someone").ok());
  first.LeaveQueue();
  AdmissionTicket third = Admit(1).value();
  first = AdmissionTicket();  // it has left the queue already
  EXPECT_TRUE(Refusal(Admit(1).status(), "max_waiting").has_value());
}

TEST_F(AdmissionTest, PromptTokensInTheQueueAreBounded) {
  SetLimits({.max_waiting_tokens = 100});
  std::optional<AdmissionTicket> longest = Admit(5000).value();  // the queue is empty
  EXPECT_TRUE(Refusal(Admit(1).status(), "max_waiting_tokens").has_value());
  longest->SetPromptTokens(60);  // fewer than their bytes let think
  AdmissionTicket second = Admit(40).value();
  EXPECT_EQ(limiter_->waiting_tokens(), 100);
  EXPECT_TRUE(Refusal(Admit(1).status(), "max_waiting_tokens").has_value());
  longest.reset();
  EXPECT_EQ(limiter_->waiting_tokens(), 40);
  EXPECT_TRUE(Admit(60).ok());
}

TEST_F(AdmissionTest, TheQueueOfAllIsBoundedAndIsNoQuota) {
  SetLimits({}, /*max_waiting=*/2, /*max_tokens=*/100);
  AdmissionTicket first = Admit(500, 0, "a").value();
  absl::Status refused = Admit(1, 0, "b").status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the limit is 100"));
  ASSERT_TRUE(RefusalOf(refused).has_value());
  EXPECT_EQ(RefusalOf(refused)->reason, RefusalReason::kQueueFull);
  EXPECT_FALSE(RefusalOf(refused)->is_quota());
  first.SetPromptTokens(50);
  AdmissionTicket second = Admit(50, 0, "b").value();
  refused = Admit(0, 0, "c").status();
  EXPECT_THAT(std::string(refused.message()), HasSubstr("2 requests wait, the limit is 2"));
  // Who is refused holds nothing.
  first.LeaveQueue();
  EXPECT_TRUE(Admit(0, 0, "c").ok());
}

TEST_F(AdmissionTest, AMinutesTokensMayComeAtOnceAndTheRefusalSaysWhenTheNextFit) {
  SetLimits({.tokens_per_minute = 600});
  AdmissionTicket first = Admit(100, 200, "t", 2).value();  // 500
  const absl::Status refused = Admit(100, 50).status();     // 150, 50 too many
  EXPECT_THAT(std::string(refused.message()), HasSubstr("100 are left now of the limit of 600"));
  const auto wait = Refusal(refused, "tokens_per_minute");
  ASSERT_TRUE(wait.has_value());
  EXPECT_GE(*wait, absl::Seconds(5));  // rounded up to whole milliseconds
  EXPECT_LE(*wait, absl::Seconds(5) + absl::Milliseconds(1));
  clock_.Advance(*wait - absl::Milliseconds(2));
  EXPECT_FALSE(Admit(100, 50).ok());
  clock_.Advance(absl::Milliseconds(2));
  EXPECT_TRUE(Admit(100, 50).ok());
}

TEST_F(AdmissionTest, WhatAMinuteNeverHoldsIsRefusedForGood) {
  SetLimits({.tokens_per_minute = 600});
  EXPECT_TRUE(Admit(100, 500).ok());
  EXPECT_FALSE(Refusal(Admit(101, 500).status(), "tokens_per_minute").has_value());
  EXPECT_FALSE(Refusal(Admit(0, 1, "t", 601).status(), "tokens_per_minute").has_value());
}

TEST_F(AdmissionTest, TokensThatWereNotUsedComeBack) {
  SetLimits({.tokens_per_minute = 600});
  std::optional<AdmissionTicket> first = Admit(100, 500).value();
  first->SetPromptTokens(80);
  EXPECT_TRUE(Admit(0, 20).ok());  // never ran: gave them back
  first->Settle(80 + 7);
  first.reset();
  EXPECT_TRUE(Admit(0, 513).ok());
  EXPECT_FALSE(Admit(0, 514).ok());
}

TEST_F(AdmissionTest, WhatWasUsedBeyondTheReservationIsOwed) {
  SetLimits({.tokens_per_minute = 600});
  {
    AdmissionTicket turn = Admit(10, 10).value();
    turn.Settle(700);  // a history that had to be computed again
  }
  const auto wait = Refusal(Admit(1).status(), "tokens_per_minute");  // 101 of 600 a minute
  ASSERT_TRUE(wait.has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*wait), 10.1, 0.0011);
}

// However requests come, a tenant is served a minute's worth and the quota over time, no more.
TEST_F(AdmissionTest, OverAnyTimeNoMoreThanTheRateIsServed) {
  std::mt19937 random(5);
  SetLimits({.tokens_per_minute = 1000});
  std::vector<std::pair<AdmissionTicket, int64_t>> alive;
  int64_t served = 0, admitted = 0;
  const absl::Time start = clock_.Now();
  for (int i = 0; i < 20000; ++i) {
    const int64_t prompt = random() % 100, output = random() % 200;
    if (absl::StatusOr<AdmissionTicket> ticket = Admit(prompt, output); ticket.ok()) {
      alive.emplace_back(*std::move(ticket), prompt + random() % (output + 1));
      ++admitted;
    }
    if (!alive.empty() && random() % 3 == 0) {
      const size_t i = random() % alive.size();
      served += alive[i].second;
      alive[i].first.Settle(alive[i].second);
      alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(i));
    }
    clock_.Advance(absl::Milliseconds(random() % 500));
    const double minutes = absl::ToDoubleMinutes(clock_.Now() - start);
    ASSERT_LE(static_cast<double>(served), 1000 * (1 + minutes));
  }
  EXPECT_GT(admitted, 500);
  // And it is not held back: most of the rate was used.
  EXPECT_GT(static_cast<double>(served), 0.8 * 1000 * absl::ToDoubleMinutes(clock_.Now() - start));
}

TEST_F(AdmissionTest, AReloadChangesQuotasForRequestsToCome) {
  SetLimits({});
  std::optional<AdmissionTicket> big = Admit(1000, 100'000).value();
  limiter_->UpdateTenants(WithLimits({.max_requests = 1, .tokens_per_minute = 60}));
  EXPECT_TRUE(Refusal(Admit(1).status(), "max_requests").has_value());
  big->Settle(90'000);  // used while there was no limit: costs at most a bucket
  big.reset();
  clock_.Advance(absl::Minutes(1));
  std::optional<AdmissionTicket> full = Admit(60).value();
  limiter_->UpdateTenants(WithLimits({}));
  EXPECT_TRUE(Admit(1'000'000).ok());
  limiter_->UpdateTenants({});
  EXPECT_TRUE(Admit(1'000'000).ok());  // no longer named
}

TEST_F(AdmissionTest, InventedTenantsAreForgottenButNotThoseWhoOwe) {
  TenantPolicies policies;
  policies.others.limits.tokens_per_minute = 600;
  limiter_.emplace(1000, 1 << 20, policies, &clock_);
  {
    AdmissionTicket used = Admit(0, 600, "greedy").value();
    used.Settle(600);
  }
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(Admit(1, 1, "invented-" + std::to_string(i)).ok());
    ASSERT_LE(limiter_->num_tenants(), 300u);
  }
  EXPECT_FALSE(Admit(0, 600, "greedy").ok());
}

}  // namespace
}  // namespace kvasir
