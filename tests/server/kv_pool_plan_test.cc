#include "server/process/kv_pool_plan.h"

#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvcache/kv_budget.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

KvLayout Layout(int layers, int kv_heads) {
  KvLayoutSpec spec;
  std::vector<int> owner(static_cast<size_t>(layers));
  std::iota(owner.begin(), owner.end(), 0);
  spec.layers = UniformKvLayers(owner, kv_heads, 128, 128);
  return *KvLayout::Create(spec);
}

KvPoolDemand Demand(const std::string& name, const KvLayout& layout, int64_t capacity_bytes = 0) {
  KvPoolDemand demand;
  demand.model = name;
  demand.layout = &layout;
  demand.capacity_bytes = capacity_bytes;
  demand.max_context_tokens = 8192;
  demand.max_running = 64;
  return demand;
}

int64_t WithBookkeeping(const KvLayout& layout, int64_t pool_bytes) {
  const int64_t block_bytes = static_cast<int64_t>(layout.block_bytes());
  return pool_bytes / block_bytes * (block_bytes + KvBookkeepingBytesPerBlock(layout));
}

TEST(KvPoolPlan, AnAutomaticPoolTakesWhatIsLeft) {
  const KvLayout layout = Layout(32, 8);  // 128 KiB per token
  const auto pools = PlanKvPools(20 * kGiB, 10 * kGiB, {Demand("a", layout)});
  ASSERT_TRUE(pools.ok()) << pools.status();
  const int64_t used =
      10 * kGiB + KvHeadroomBytes(20 * kGiB) + WithBookkeeping(layout, (*pools)[0].bytes);
  EXPECT_LE(used, 20 * kGiB);
  EXPECT_GT(used + 2 * static_cast<int64_t>(layout.block_bytes()), 20 * kGiB);
  EXPECT_EQ((*pools)[0].bytes % static_cast<int64_t>(layout.block_bytes()), 0);
}

TEST(KvPoolPlan, AutomaticPoolsHoldEquallyManyTokens) {
  const KvLayout large = Layout(32, 8), small = Layout(16, 4);
  const auto pools = PlanKvPools(40 * kGiB, 10 * kGiB, {Demand("a", large), Demand("b", small)});
  ASSERT_TRUE(pools.ok()) << pools.status();
  const int64_t large_blocks = (*pools)[0].bytes / static_cast<int64_t>(large.block_bytes());
  const int64_t small_blocks = (*pools)[1].bytes / static_cast<int64_t>(small.block_bytes());
  EXPECT_NEAR(static_cast<double>(large_blocks), static_cast<double>(small_blocks), 2);
}

TEST(KvPoolPlan, GivenSizesAreKeptAndTheOthersShareTheRest) {
  const KvLayout layout = Layout(32, 8);
  const auto pools =
      PlanKvPools(40 * kGiB, 10 * kGiB, {Demand("a", layout, 5 * kGiB), Demand("b", layout)});
  ASSERT_TRUE(pools.ok()) << pools.status();
  EXPECT_LE((*pools)[0].bytes, 5 * kGiB);
  EXPECT_GT((*pools)[0].bytes, 5 * kGiB - static_cast<int64_t>(layout.block_bytes()));
  EXPECT_GT((*pools)[1].bytes, 20 * kGiB);
  EXPECT_LT((*pools)[1].bytes, 21 * kGiB);
}

TEST(KvPoolPlan, ASmallModelDoesNotTakeTheMachine) {
  const KvLayout layout = Layout(4, 1);  // 2 KiB per token
  const auto pools = PlanKvPools(64 * kGiB, 1, {Demand("a", layout)});
  ASSERT_TRUE(pools.ok());
  EXPECT_EQ((*pools)[0].bytes, int64_t{2} * 64 * 8192 * 2048);  // 2 GiB
}

TEST(KvPoolPlan, SmallGivenPoolsAreAllowed) {
  const KvLayout layout = Layout(4, 1);
  const auto pools =
      PlanKvPools(kGiB, 1, {Demand("a", layout, static_cast<int64_t>(layout.block_bytes()))});
  ASSERT_TRUE(pools.ok());
  EXPECT_EQ((*pools)[0].bytes, static_cast<int64_t>(layout.block_bytes()));
}

TEST(KvPoolPlan, RefusalsNameTheModelTheSumAndTheRemedy) {
  const KvLayout layout = Layout(32, 8);
  struct Case {
    int64_t usable, weights;
    std::vector<KvPoolDemand> demands;
    const char* model;
  };
  const Case cases[] = {
      // Too large a pool; the second pool too large; weights alone too large; room for weights but
      // for no sequence.
      {20 * kGiB, 10 * kGiB, {Demand("a", layout, 15 * kGiB)}, "'a'"},
      {20 * kGiB, 10 * kGiB, {Demand("a", layout, 4 * kGiB), Demand("b", layout, 5 * kGiB)}, "'b'"},
      {20 * kGiB, 30 * kGiB, {Demand("a", layout)}, "'a'"},
      {20 * kGiB, 18 * kGiB - kGiB / 2, {Demand("a", layout)}, "'a'"},
  };
  for (const Case& refused : cases) {
    const auto pools = PlanKvPools(refused.usable, refused.weights, refused.demands);
    ASSERT_FALSE(pools.ok()) << refused.model;
    EXPECT_EQ(pools.status().code(), absl::StatusCode::kResourceExhausted);
    for (const char* part : {refused.model, "weights", "headroom", "KV pool", "capacity_bytes"}) {
      EXPECT_THAT(std::string(pools.status().message()), HasSubstr(part));
    }
  }
}

}  // namespace
}  // namespace kvasir
