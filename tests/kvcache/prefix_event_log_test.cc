#include "kvcache/prefix_event_log.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <random>
#include <set>

#include "kvcache/kv_cache_manager.h"
#include "tests/kvcache/kv_cache_peer.h"
#include "tests/kvcache/kv_schemes.h"

namespace kvasir {
namespace {

std::vector<int32_t> Tokens(int count, int32_t first = 100) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Whoever follows the log knows what AttachPrefix would find.
TEST(PrefixEventLog, TellsWhatBecameFindableAndWhatNoLongerIs) {
  PrefixEventLog log;
  const KvLayout layout = testing::MustCreate(testing::TinySchemes()[3].spec);
  KvCacheConfig config;
  config.capacity_bytes = 6 * static_cast<int64_t>(layout.block_bytes());
  config.prefix_events = &log;
  auto created = KvCacheManager::Create(layout, config);
  ASSERT_TRUE(created.ok()) << created.status();
  const std::unique_ptr<KvCacheManager> manager = *std::move(created);
  const auto extend = [&](const std::vector<int32_t>& tokens, BlockTable* table) {
    ASSERT_TRUE(manager->Reserve(table, static_cast<int>(tokens.size())));
    manager->Commit(0, tokens, table);
  };
  const auto make = [&](const std::vector<int32_t>& tokens) {
    BlockTable table = manager->NewTable();
    manager->AttachPrefix(0, tokens, static_cast<int>(tokens.size()), &table);
    extend(tokens, &table);
    return table;
  };
  { const BlockTable table = make(Tokens(40)); }
  bool lost = true;
  std::vector<PrefixEvent> events = log.Read(1, 100, &lost);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_FALSE(lost);
  EXPECT_FALSE(events[0].parent.has_value());
  EXPECT_EQ(events[1].parent, events[0].block);
  EXPECT_EQ(events[1].tokens, Tokens(16, 116));
  EXPECT_EQ(log.next_sequence(), 3u);
  EXPECT_EQ(log.Read(2, 100, &lost).front().sequence, 2u);
  EXPECT_TRUE(log.Read(3, 100, &lost).empty());

  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    // Some share beginnings, some are truncated behind a full block and go on differently.
    std::vector<int32_t> tokens = Tokens(20 + static_cast<int>(random() % 60),
                                         100 + static_cast<int32_t>(random() % 3) * 1000);
    BlockTable table = make(tokens);
    if (random() % 2 == 0) {
      manager->Truncate(&table, 20);
      tokens.resize(20);
      for (int j = 0; j < 16; ++j) tokens.push_back(9000 + static_cast<int32_t>(random() % 100));
      extend(tokens, &table);
    }
  }
  std::multiset<uint64_t> findable;
  for (const PrefixEvent& event : log.Read(1, 100000, &lost)) {
    if (event.stored) {
      findable.insert(event.block);
    } else {
      ASSERT_EQ(findable.erase(event.block), 1u);
    }
  }
  EXPECT_FALSE(lost);
  int filed = 0;
  for (BlockId block = 0; block < 6; ++block) filed += KvCachePeer::IsFindable(*manager, 0, block);
  EXPECT_EQ(findable.size(), static_cast<size_t>(filed));
  EXPECT_GT(filed, 0);
  EXPECT_GT(manager->stats().evictions, 10);
}

TEST(PrefixEventLog, ForgetsTheOldestAndSaysSo) {
  PrefixEventLog log(3);
  for (uint64_t i = 1; i <= 5; ++i) log.Removed(BlockDigest{{i, 0}});
  bool lost = false;
  std::vector<PrefixEvent> events = log.Read(1, 2, &lost);
  EXPECT_TRUE(lost);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].sequence, 3u);
  EXPECT_EQ(events[0].block, 3u);
  EXPECT_EQ(log.Read(4, 10, &lost).size(), 2u);
  EXPECT_FALSE(lost);
  EXPECT_TRUE(log.Read(99, 10, &lost).empty());
}

}  // namespace
}  // namespace kvasir
