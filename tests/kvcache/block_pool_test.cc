#include "kvcache/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kvcache/block_hash.h"
#include "kvcache/prefix_cache.h"

namespace kvasir {
namespace {

void ExpectCounts(const BlockPool& pool, int live, int cached, int free) {
  EXPECT_EQ(pool.num_live(), live);
  EXPECT_EQ(pool.num_cached(), cached);
  EXPECT_EQ(pool.num_free(), free);
}

// Blocks that all have memory.
BlockPool Filled(int num_blocks) {
  BlockPool pool(num_blocks);
  std::vector<BlockId> blocks;
  while (pool.num_vacant() > 0) {
    pool.Fill();
    blocks.push_back(pool.Take());
  }
  std::reverse(blocks.begin(), blocks.end());
  for (const BlockId block : blocks) pool.Unref(block, /*keep_cached=*/false);
  return pool;
}

TEST(BlockPool, BlocksHaveMemoryFromFillToVacate) {
  BlockPool pool(2);
  EXPECT_EQ(pool.num_vacant(), 2);
  EXPECT_EQ(pool.Fill(), 0);
  EXPECT_EQ(pool.Fill(), 1);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.Take(), 1);
  EXPECT_EQ(pool.Vacate(), 0);
  EXPECT_EQ(pool.num_vacant(), 1);
  ExpectCounts(pool, 1, 0, 0);
  EXPECT_EQ(pool.Fill(), 0);
}

TEST(BlockPool, HandsOutFromZeroUpAndTheLastFreedFirst) {
  BlockPool pool = Filled(3);
  EXPECT_EQ(pool.Take(), 0);
  EXPECT_EQ(pool.Take(), 1);
  ExpectCounts(pool, 2, 0, 1);
  EXPECT_TRUE(pool.Unref(0, /*keep_cached=*/false));
  EXPECT_EQ(pool.Take(), 0);
}

TEST(BlockPool, LastReferenceDecides) {
  BlockPool pool = Filled(2);
  const BlockId block = pool.Take();
  pool.Ref(block);
  EXPECT_EQ(pool.ref_count(block), 2);
  EXPECT_FALSE(pool.Unref(block, true));
  ExpectCounts(pool, 1, 0, 1);
  EXPECT_TRUE(pool.Unref(block, true));
  ExpectCounts(pool, 0, 1, 1);
  EXPECT_TRUE(pool.is_cached(block));
  pool.Ref(block);
  ExpectCounts(pool, 1, 0, 1);
}

// cached, oldest to newest:  0 1 2 3  --use 0 and 2-->  1 3 0 2
TEST(BlockPool, CachedBlocksAgeInOrderOfUse) {
  BlockPool pool = Filled(4);
  for (int i = 0; i < 4; ++i) pool.Take();
  for (int i = 0; i < 4; ++i) pool.Unref(i, true);
  for (const BlockId block : {0, 2}) {
    pool.Ref(block);
    pool.Unref(block, true);
  }
  for (const BlockId expected : {1, 3, 0, 2}) {
    EXPECT_EQ(pool.oldest_cached(), expected);
    pool.Uncache(expected);
  }
  EXPECT_EQ(pool.oldest_cached(), kNoBlock);
  ExpectCounts(pool, 0, 0, 4);
}

TEST(BlockPoolDeathTest, MisuseAborts) {
  BlockPool pool = Filled(1);
  EXPECT_DEATH(pool.Ref(0), "invariant broken");  // free
  EXPECT_DEATH(pool.Unref(0, false), "invariant broken");
  EXPECT_DEATH(pool.Ref(1), "invariant broken");  // no such block
  pool.Take();
  EXPECT_DEATH(pool.Take(), "invariant broken");
  EXPECT_DEATH(pool.Uncache(0), "invariant broken");
}

std::array<uint8_t, 32> Key(uint8_t first) {
  std::array<uint8_t, 32> key{};
  key[0] = first;
  return key;
}

TEST(BlockHasher, EveryInputCounts) {
  BlockHasher hasher(Key(1));
  BlockHasher other(Key(2));
  const std::vector<int32_t> tokens(32, 7);
  std::vector<int32_t> changed = tokens;
  changed[31] = 8;
  const BlockDigest root = hasher.Root(5);
  EXPECT_EQ(root, hasher.Root(5));
  EXPECT_NE(root, hasher.Root(6));
  EXPECT_NE(root, other.Root(5));
  const BlockDigest salted = hasher.Root({5, {1, 2}});
  EXPECT_EQ(salted, hasher.Root({5, {1, 2}}));
  EXPECT_NE(salted, root);
  EXPECT_NE(salted, hasher.Root({5, {2, 1}}));
  EXPECT_NE(salted, hasher.Root({6, {1, 2}}));
  EXPECT_EQ(hasher.Child(root, tokens), hasher.Child(root, tokens));
  EXPECT_NE(hasher.Child(root, tokens), hasher.Child(root, changed));
  EXPECT_NE(hasher.Child(root, tokens), hasher.Child(hasher.Root(6), tokens));
  EXPECT_NE(hasher.Child(root, tokens), other.Child(root, tokens));
}

// A digest that is equal although the content is not must be a miss: forged here, since none can be
// found.
TEST(PrefixCache, CollisionIsAMissNeverAWrongBlock) {
  PrefixCache cache(4, 4);
  BlockHasher hasher(Key(1));
  const std::vector<int32_t> ours = {1, 2, 3, 4};
  const std::vector<int32_t> theirs = {1, 2, 3, 5};
  const BlockDigest root = hasher.Root(0);
  const BlockDigest digest = hasher.Child(root, ours);
  ASSERT_TRUE(cache.Insert(2, digest, root, ours));
  EXPECT_EQ(cache.Find(digest, root, ours), 2);
  EXPECT_EQ(cache.Find(digest, root, theirs), kNoBlock);
  EXPECT_EQ(cache.Find(digest, hasher.Root(1), ours), kNoBlock);
  EXPECT_FALSE(cache.Insert(3, digest, root, theirs));
  EXPECT_FALSE(cache.Contains(3));
  cache.Erase(2);
  EXPECT_EQ(cache.Find(digest, root, ours), kNoBlock);
  EXPECT_EQ(cache.num_filed(), 0);
}

}  // namespace
}  // namespace kvasir
