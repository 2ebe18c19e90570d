// What a tenant's quotas refuse, what they make wait and what they evict, with the dummy model and
// a fake clock; and that each opens again.
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/engine_core.h"
#include "runtime/engine/refusal.h"
#include "tests/fakes/engine_fixture.h"
#include "tests/kvcache/temporary_directory.h"

namespace kvasir {
namespace {

using testing::EngineFixture;
using ::testing::HasSubstr;
using testing::Transcript;

// Tenant "t" has `limits`, "free" none.
TenantPolicies WithLimits(TenantLimits limits) {
  TenantPolicies policies;
  policies.named.resize(2);
  policies.named[0].id = "t";
  policies.named[0].limits = limits;
  policies.named[1].id = "free";
  return policies;
}

class QuotaTest : public ::testing::Test {
 protected:
  QuotaTest() : block_bytes_(static_cast<int64_t>(f_.kv->layout().block_bytes())) {}

  void SetLimits(TenantLimits limits) { f_.config.tenants = WithLimits(limits); }

  // Blocks hold 16 tokens; a request of p prompt and m output tokens needs p + m - 1 positions.
  GenerationRequest Of(const std::string& tenant, int prompt_tokens, int max_tokens,
                       const std::string& session = "") {
    GenerationRequest request =
        f_.Request(EngineFixture::Prompt(prompt_tokens, ++seed_), max_tokens);
    request.tenant = tenant;
    request.session_id = session;
    return request;
  }

  int64_t LiveBlocks() const { return f_.kv->stats().live_bytes / block_bytes_; }

  static void ExpectRefusal(const absl::Status& status, const std::string& quota, bool can_wait,
                            const std::optional<std::string>& tenant = "t") {
    EXPECT_EQ(status.code(), can_wait ? absl::StatusCode::kResourceExhausted
                                      : absl::StatusCode::kFailedPrecondition)
        << status;
    const auto refusal = RefusalOf(status);
    ASSERT_TRUE(refusal.has_value()) << status;
    EXPECT_EQ(refusal->limit, quota);
    EXPECT_EQ(refusal->tenant, tenant);
    EXPECT_EQ(refusal->retry_after.has_value(), can_wait);
  }

  EngineFixture f_{64};
  const int64_t block_bytes_;
  int seed_ = 0;
};

TEST_F(QuotaTest, WhatNeverFitsTheKvQuotaIsRefusedForGood) {
  SetLimits({.max_kv_bytes = 4 * block_bytes_});
  const Transcript fits = f_.Complete(Of("t", 40, 25));  // 64 positions
  EXPECT_TRUE(fits.finished->status.ok()) << fits.finished->status;
  const Transcript refused = f_.Complete(Of("t", 40, 26));
  ExpectRefusal(refused.finished->status, "max_kv_bytes", /*can_wait=*/false);
  EXPECT_THAT(std::string(refused.finished->status.message()),
              HasSubstr(std::to_string(5 * block_bytes_)));
  EXPECT_THAT(std::string(refused.finished->status.message()),
              HasSubstr(std::to_string(4 * block_bytes_)));
  EXPECT_TRUE(f_.Complete(Of("free", 40, 26)).finished->status.ok());
  EXPECT_EQ(LiveBlocks(), 0);
}

TEST_F(QuotaTest, AHistoryThatOutgrowsTheKvQuotaIsRefusedAndStaysAsItWas) {
  SetLimits({.max_kv_bytes = 4 * block_bytes_});
  ASSERT_TRUE(f_.Complete(Of("t", 30, 20, "s")).finished->status.ok());
  ExpectRefusal(f_.Complete(Of("t", 10, 10, "s")).finished->status, "max_kv_bytes", false);
  EXPECT_EQ(f_.core->GetSession("t", "s")->tokens, 50);
  EXPECT_TRUE(f_.Complete(Of("t", 5, 5, "s")).finished->status.ok());
}

TEST_F(QuotaTest, AHistoryThatOutgrowsThePoolIsRefused) {
  EngineFixture small(4);
  GenerationRequest first = small.Request(EngineFixture::Prompt(30, 1), 20);
  first.session_id = "s";
  ASSERT_TRUE(small.Complete(first).finished->status.ok());
  GenerationRequest second = small.Request(EngineFixture::Prompt(10, 2), 10);
  second.session_id = "s";
  const Transcript refused = small.Complete(second);
  EXPECT_EQ(refused.finished->status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(RefusalOf(refused.finished->status).has_value());
  EXPECT_EQ(RefusalOf(refused.finished->status)->reason, RefusalReason::kKvPool);
}

// Each fits alone, so they run one after another; the pool would hold all of them.
TEST_F(QuotaTest, WhatDoesNotFitBesideTheTenantsOthersWaits) {
  SetLimits({.max_kv_bytes = 4 * block_bytes_});
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 3; ++i) streams.push_back(f_.Submit(Of("t", 40, 20)));
  int64_t most = 0;
  while (f_.core->Step()) {
    most = std::max(most, LiveBlocks());
    f_.clock.Advance(absl::Milliseconds(1));
  }
  EXPECT_EQ(most, 4);
  for (const auto& stream : streams) {
    Transcript transcript;
    transcript.Drain(stream.get());
    ASSERT_TRUE(transcript.finished.has_value());
    EXPECT_TRUE(transcript.finished->status.ok());
  }
  EXPECT_EQ(LiveBlocks(), 0);
}

TEST_F(QuotaTest, OwnIdleSessionsMakeRoomInTheKvQuota) {
  SetLimits({.max_kv_bytes = 4 * block_bytes_});
  ASSERT_TRUE(f_.Complete(Of("t", 40, 2, "s")).finished->status.ok());
  EXPECT_EQ(LiveBlocks(), 3);
  EXPECT_TRUE(f_.Complete(Of("t", 40, 20)).finished->status.ok());
  EXPECT_EQ(f_.core->GetSession("t", "s")->state, SessionSnapshot::State::kEvicted);
}

TEST_F(QuotaTest, SessionsReplaceIdleOnesAndWaitForBusyOnes) {
  SetLimits({.max_sessions = 1});
  ASSERT_TRUE(f_.Complete(Of("t", 5, 2, "a")).finished->status.ok());
  auto busy = f_.Submit(Of("t", 5, 2, "b"));
  EXPECT_EQ(f_.core->GetSession("t", "a").status().code(), absl::StatusCode::kNotFound);
  ExpectRefusal(f_.Complete(Of("t", 5, 2, "c")).finished->status, "max_sessions", true);
  EXPECT_TRUE(f_.Complete(Of("free", 5, 2, "c")).finished->status.ok());
  f_.RunUntilIdle();
  EXPECT_TRUE(f_.Complete(Of("t", 5, 2, "c")).finished->status.ok());
  EXPECT_EQ(f_.core->ListSessions("t").size(), 1u);
}

TEST_F(QuotaTest, SessionsOfAllTenantsTogetherAreBoundedAlike) {
  f_.config.max_sessions = 1;
  auto busy = f_.Submit(Of("t", 5, 2, "a"));
  ExpectRefusal(f_.Complete(Of("free", 5, 2, "b")).finished->status, "max_sessions", true,
                std::nullopt);
  f_.RunUntilIdle();
  EXPECT_TRUE(f_.Complete(Of("free", 5, 2, "b")).finished->status.ok());
  EXPECT_EQ(f_.core->ListSessions(std::nullopt).size(), 1u);
}

// A fork needs room for its source beside itself.
TEST_F(QuotaTest, ForkingTheOnlySessionIsNothingToWaitFor) {
  SetLimits({.max_sessions = 1});
  ASSERT_TRUE(f_.Complete(Of("t", 5, 2, "a")).finished->status.ok());
  ExpectRefusal(f_.Fork("t", "a", "b").status(), "max_sessions", false);
  EXPECT_EQ(f_.core->ListSessions("t").size(), 1u);
}

TEST_F(QuotaTest, NoSessionsAtAllIsNothingToWaitFor) {
  SetLimits({.max_sessions = 0});
  ExpectRefusal(f_.Complete(Of("t", 5, 2, "a")).finished->status, "max_sessions", false);
  EXPECT_TRUE(f_.Complete(Of("t", 5, 2)).finished->status.ok());
}

TEST_F(QuotaTest, LoweredQuotasOfBytesHoldAtOnce) {
  const testing::TemporaryDirectory folder;
  f_.OpenSpill(folder.path().string());
  SetLimits({.max_session_bytes = 3 * block_bytes_});
  for (const char* id : {"a", "b", "c"}) {
    ASSERT_TRUE(f_.Complete(Of("t", 20, 2, id)).finished->status.ok());  // 2 blocks each
    f_.clock.Advance(absl::Seconds(1));
  }
  const auto state = [&](const char* id) { return f_.core->GetSession("t", id)->state; };
  EXPECT_EQ(LiveBlocks(), 2);
  EXPECT_EQ(state("a"), SessionSnapshot::State::kSpilled);
  EXPECT_EQ(state("b"), SessionSnapshot::State::kSpilled);
  EXPECT_EQ(state("c"), SessionSnapshot::State::kIdle);
  f_.core->UpdateTenants(WithLimits({.max_session_bytes = 0, .max_spill_bytes = 2 * block_bytes_}));
  EXPECT_EQ(LiveBlocks(), 0);
  EXPECT_EQ(state("a"), SessionSnapshot::State::kEvicted);
  EXPECT_EQ(state("b"), SessionSnapshot::State::kEvicted);
  EXPECT_EQ(state("c"), SessionSnapshot::State::kSpilled);
}

// Whatever happens to requests and sessions, what tenants are said to hold is what the pool holds,
// and in the end nothing.
TEST_F(QuotaTest, UsageAddsUpToThePoolAndReturnsToNothing) {
  std::mt19937 random(11);
  f_.config.session_ttl = absl::Seconds(30);
  SetLimits({.max_kv_bytes = 20 * block_bytes_, .max_sessions = 3});
  f_.Start();
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int step = 0; step < 3000; ++step) {
    if (random() % 4 == 0) {
      const char* const tenants[] = {"t", "free", "", "stranger"};
      const std::string session = random() % 2 == 0 ? "s" + std::to_string(random() % 5) : "";
      streams.push_back(
          f_.Submit(Of(tenants[random() % 4], 1 + random() % 60, 1 + random() % 40, session)));
    }
    if (!streams.empty() && random() % 10 == 0) streams[random() % streams.size()]->Cancel();
    f_.core->Step();
    f_.clock.Advance(absl::Milliseconds(1));
    int64_t bytes = 0, requests = 0;
    for (const auto& [tenant, usage] : f_.observer.usage) {
      bytes += usage.kv_bytes;
      requests += usage.running + usage.waiting;
    }
    ASSERT_EQ(bytes, LiveBlocks() * block_bytes_);
    ASSERT_EQ(requests, static_cast<int64_t>(f_.core->ListRequests(std::nullopt).size()));
    ASSERT_LE(f_.observer.usage["t"].kv_bytes, 20 * block_bytes_);
    for (const auto& stream : streams) {
      while (stream->TryPop().has_value()) {
      }
    }
  }
  f_.RunUntilIdle();
  f_.clock.Advance(absl::Minutes(1));
  f_.core->Step();
  for (const auto& [tenant, usage] : f_.observer.usage) {
    EXPECT_TRUE(usage.holds_nothing()) << tenant;
    EXPECT_GT(usage.kv_byte_seconds, 0) << tenant;
  }
  EXPECT_EQ(f_.observer.usage.size(), 4u);
}

TEST_F(QuotaTest, ByteSecondsCountIdleSessionsToo) {
  ASSERT_TRUE(f_.Complete(Of("t", 20, 2, "s")).finished->status.ok());  // 2 blocks
  const double before = f_.observer.usage["t"].kv_byte_seconds;
  f_.clock.Advance(absl::Seconds(100));
  EXPECT_LE(f_.core->next_timer(), f_.clock.Now());
  f_.core->Step();
  EXPECT_NEAR(f_.observer.usage["t"].kv_byte_seconds - before, 200.0 * block_bytes_, 1);
  ASSERT_TRUE(f_.core->DeleteSession("t", "s").ok());
  f_.core->Step();
  EXPECT_TRUE(f_.observer.usage["t"].holds_nothing());
  EXPECT_EQ(f_.core->next_timer(), absl::InfiniteFuture());
}

TEST_F(QuotaTest, ByteSecondsOfATenantAreThoseOfItsRequests) {
  const Transcript done = f_.Complete(Of("t", 40, 30));
  EXPECT_NEAR(f_.observer.usage["t"].kv_byte_seconds, done.finished->usage.kv_byte_seconds, 1e-6);
}

}  // namespace
}  // namespace kvasir
