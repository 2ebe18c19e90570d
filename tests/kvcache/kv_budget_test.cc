#include "kvcache/kv_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kvcache/kv_schemes.h"

namespace kvasir {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// 8 layers, 2 heads of 32, bf16: 2048 bytes per token, blocks of 32 tokens = 65,536 bytes.
KvLayout Layout() { return testing::MustCreate(testing::UniformSpec(testing::OwnEach(8), 2, 32)); }

TEST(KvBudget, ExplicitSizeIsRoundedDownToBlocks) {
  const auto budget = ComputeKvBudget(Layout(), {.kv_cache_bytes = 10 * 65'536 + 65'535});
  ASSERT_TRUE(budget.ok()) << budget.status();
  EXPECT_EQ(budget->num_blocks, 10);
  EXPECT_EQ(budget->pool_bytes, 655'360);
  EXPECT_THAT(budget->explanation, HasSubstr("room for 320 tokens"));
}

TEST(KvBudget, DerivedSizeFillsWhatIsLeft) {
  const KvLayout layout = Layout();
  const int64_t per_block = 65'536 + KvBookkeepingBytesPerBlock(layout);
  const auto budget = ComputeKvBudget(
      layout, {.usable_memory_bytes = 5'000 + 7'000 + 100 * per_block + per_block - 1,
               .weight_bytes = 5'000,
               .headroom_bytes = 7'000,
               .min_tokens = 2048});
  ASSERT_TRUE(budget.ok()) << budget.status();
  EXPECT_EQ(budget->num_blocks, 100);
}

TEST(KvBudget, RefusalPrintsTheSumAndEverySummand) {
  const auto budget = ComputeKvBudget(Layout(), {.kv_cache_bytes = 1'000 * 65'536,
                                                 .usable_memory_bytes = 50'000'000,
                                                 .weight_bytes = 20'000'000,
                                                 .headroom_bytes = 3'000'000});
  ASSERT_EQ(budget.status().code(), absl::StatusCode::kResourceExhausted);
  const int64_t bookkeeping = 1'000 * KvBookkeepingBytesPerBlock(Layout());
  const int64_t sum = 20'000'000 + 3'000'000 + 65'536'000 + bookkeeping;
  EXPECT_THAT(
      std::string(budget.status().message()),
      AllOf(HasSubstr("weights 20000000 bytes"), HasSubstr("headroom 3000000 bytes"),
            HasSubstr("KV pool 65536000 bytes"), HasSubstr("1000 blocks of 65536 bytes"),
            HasSubstr(std::to_string(bookkeeping)), HasSubstr(std::to_string(sum)),
            HasSubstr("may use 50000000 bytes"), HasSubstr(std::to_string(sum - 50'000'000)),
            HasSubstr("Lower kv_cache.capacity_bytes")));
}

TEST(KvBudget, RefusesWhenTheWeightsLeaveNoRoomForOneSequence) {
  const auto budget = ComputeKvBudget(Layout(), {.usable_memory_bytes = 21'000'000,
                                                 .weight_bytes = 20'000'000,
                                                 .headroom_bytes = 500'000,
                                                 .min_tokens = 2048});
  ASSERT_EQ(budget.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(budget.status().message()),
              AllOf(HasSubstr("one sequence of 2048 tokens"), HasSubstr("64 blocks"),
                    HasSubstr("lower max_context_tokens")));
}

TEST(KvBudget, RefusesAnExplicitSizeTooSmallForOneSequence) {
  const auto budget =
      ComputeKvBudget(Layout(), {.kv_cache_bytes = 63 * 65'536, .min_tokens = 2048});
  ASSERT_EQ(budget.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(budget.status().message()),
              AllOf(HasSubstr("is 63 blocks"), HasSubstr("needs 64 blocks")));
  EXPECT_TRUE(ComputeKvBudget(Layout(), {.kv_cache_bytes = 64 * 65'536, .min_tokens = 2048}).ok());
}

TEST(KvBudget, RefusesNonsense) {
  EXPECT_EQ(ComputeKvBudget(Layout(), {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ComputeKvBudget(Layout(), {.kv_cache_bytes = -1}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ComputeKvBudget(Layout(), {.kv_cache_bytes = 1 << 20, .min_tokens = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvasir
