// With scrub_freed_blocks, which the daemon turns on for tenants, nothing of a request's K/V can be
// read in the pool once nobody holds it: however the request ended, whoever shared its blocks.
#include <algorithm>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "runtime/engine/engine_core.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::EngineFixture;

class RemainsTest : public ::testing::TestWithParam<testing::Scheme> {
 protected:
  static constexpr int kBlocks = 14;

  RemainsTest() : f_(kBlocks, GetParam()) {}

  void UsePool(bool prefix_cache) {
    f_.config.prefix_cache = prefix_cache;
    KvCacheConfig config;
    config.enable_prefix_cache = prefix_cache;
    config.capacity_bytes =
        kBlocks * static_cast<int64_t>(testing::TinyLayout(GetParam()).block_bytes());
    config.scrub_freed_blocks = true;
    config.hash_key.fill(7);
    f_.model.reset();
    f_.kv = KvCacheManager::Create(testing::TinyLayout(GetParam()), config).value();
    f_.model = std::make_unique<testing::DummyModel>(f_.kv.get(), EngineFixture::kVocab);
  }

  int BlocksThatHoldSomething() const {
    int count = 0;
    for (BlockId block = 0; block < kBlocks; ++block) {
      const auto bytes = f_.kv->arena()->Block(0, block);
      count += std::any_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte != 0; });
    }
    return count;
  }

  EngineFixture f_;
};

INSTANTIATE_TEST_SUITE_P(Schemes, RemainsTest, ::testing::ValuesIn(testing::AllSchemes()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(RemainsTest, NothingAfterARequest) {
  UsePool(/*prefix_cache=*/false);
  f_.Submit(f_.Request(EngineFixture::Prompt(40, 1), 20));
  f_.core->Step();
  f_.core->Step();
  EXPECT_GE(BlocksThatHoldSomething(), 2);  // the test sees what is there
  f_.RunUntilIdle();
  EXPECT_EQ(BlocksThatHoldSomething(), 0);
}

TEST_P(RemainsTest, NothingAfterManyTenantsForksPreemptionsAndCancellations) {
  UsePool(/*prefix_cache=*/false);
  f_.Start();
  std::mt19937 random(1);
  for (int round = 0; round < 40; ++round) {
    GenerationRequest request =
        f_.Request(EngineFixture::Prompt(1 + static_cast<int>(random() % 60), round), 30);
    request.tenant = std::string("t").append(std::to_string(random() % 3));
    if (random() % 3 == 0) request.n = 3;
    const auto stream = f_.Submit(std::move(request));
    for (unsigned step = random() % 12; step > 0; --step) f_.core->Step();
    if (random() % 4 == 0) stream->Cancel();
  }
  f_.RunUntilIdle();
  EXPECT_FALSE(f_.observer.preempted.empty());
  EXPECT_FALSE(f_.observer.cancelled.empty());
  EXPECT_EQ(BlocksThatHoldSomething(), 0);
}

TEST_P(RemainsTest, ASessionKeepsItsBlocksAndNothingIsLeftOfADeletedOne) {
  UsePool(/*prefix_cache=*/false);
  GenerationRequest request = f_.Request(EngineFixture::Prompt(40, 1), 10);
  request.tenant = "a";
  request.session_id = "s";
  f_.Complete(std::move(request));
  EXPECT_EQ(BlocksThatHoldSomething(), 4);  // 49 tokens: the last one drawn was never computed
  ASSERT_TRUE(f_.core->DeleteSession("a", "s").ok());
  EXPECT_EQ(BlocksThatHoldSomething(), 0);
}

// Cached prefixes stay for their tenant alone, until others need the blocks.
TEST_P(RemainsTest, WhatAnotherTenantsBlocksHeldIsGoneWhenTheyAreTaken) {
  UsePool(/*prefix_cache=*/true);
  GenerationRequest first = f_.Request(EngineFixture::Prompt(16 * kBlocks - 30, 1), 10);
  first.tenant = "a";
  f_.Complete(std::move(first));
  EXPECT_GE(BlocksThatHoldSomething(), kBlocks - 2);
  GenerationRequest second = f_.Request(EngineFixture::Prompt(16 * kBlocks - 30, 2), 10);
  second.tenant = "b";
  f_.Complete(std::move(second));
  f_.kv->EvictCache(0);
  EXPECT_EQ(BlocksThatHoldSomething(), 0);
}

}  // namespace
}  // namespace kvasir
