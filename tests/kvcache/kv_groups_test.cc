// Groups of layers with tiny numbers: blocks of 16 positions. Drawings: a row for each group, [16]
// a full block, [ 8] one with 8 positions filled, - one given back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <optional>

#include "kvcache/kv_budget.h"
#include "kvcache/kv_cache_manager.h"
#include "tests/kvcache/kv_cache_peer.h"
#include "tests/kvcache/kv_pattern.h"
#include "tests/kvcache/kv_schemes.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::KvPattern;
using testing::MustCreate;
using testing::UniformSpec;

std::vector<int32_t> Tokens(int count, int32_t first = 100) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Layers 0 and 1 with a window of 20, layer 2 without.
KvLayoutSpec Windowed() {
  KvLayoutSpec spec = UniformSpec({0, 1, 2}, 1, 4, KvElementType::kBf16, 16);
  spec.layers[0].window = spec.layers[1].window = 20;
  return spec;
}

// Layers 0 and 2 keep a state, layer 1 attends.
KvLayoutSpec Stateful() {
  KvLayoutSpec spec = UniformSpec({0, 1, 2}, 1, 4, KvElementType::kBf16, 16);
  spec.layers[0] = {.kind = KvLayerKind::kState, .state_bytes = 72};
  spec.layers[2] = {.kind = KvLayerKind::kState, .state_bytes = 8};
  return spec;
}

TEST(KvGroups, LayersOfOneWindowAreOneGroupWhateverTheirDimensions) {
  KvLayoutSpec spec = UniformSpec({0, 1, 2, 3, 4}, 2, 8, KvElementType::kBf16, 16);
  spec.layers[0].window = spec.layers[3].window = 64;
  spec.layers[1].window = 32;
  spec.layers[3].kv_heads = 1;
  spec.layers[4] = {.kind = KvLayerKind::kNone};
  spec.layers.push_back({.kind = KvLayerKind::kState, .state_bytes = 100});
  const KvLayout layout = MustCreate(spec);
  ASSERT_EQ(layout.num_groups(), 4);
  EXPECT_EQ(layout.group(0).kind, KvGroupKind::kFull);
  EXPECT_THAT(layout.group(0).layers, ElementsAre(2));
  EXPECT_EQ(layout.group(1).window, 32);
  EXPECT_THAT(layout.group(1).layers, ElementsAre(1));
  EXPECT_EQ(layout.group(2).window, 64);
  EXPECT_THAT(layout.group(2).layers, ElementsAre(0, 3));
  EXPECT_EQ(layout.group(2).resident_bytes_per_token, 3 * 2 * 8 * 2u);
  EXPECT_EQ(layout.group(3).kind, KvGroupKind::kState);
  EXPECT_EQ(layout.state_bytes_per_sequence(), 128u);  // whole cache lines
  EXPECT_EQ(layout.group_of(4), -1);
}

// A borrower that sees everything keeps its windowed owner's K/V for good.
TEST(KvGroups, AnOwnerLivesAsLongAsItsMostPatientReaderAsks) {
  KvLayoutSpec spec = UniformSpec({0, 0, 2, 2}, 1, 4, KvElementType::kBf16, 16);
  spec.layers[0].window = 16;
  spec.layers[2].window = 16;
  spec.layers[3].window = 48;
  const KvLayout layout = MustCreate(spec);
  EXPECT_EQ(layout.group(layout.group_of(0)).kind, KvGroupKind::kFull);
  EXPECT_EQ(layout.group_of(1), layout.group_of(0));
  EXPECT_EQ(layout.group(layout.group_of(2)).window, 48);
  // Each layer reads what it sees itself.
  EXPECT_EQ(layout.ReadBytes(99, 100), (16 + 100 + 16 + 48) * 2 * 4 * 2);
  EXPECT_EQ(layout.ReadBytes(0, 100), 4 * 100 * 2 * 4 * 2);
}

TEST(KvGroups, RefusesContradictions) {
  const auto message = [](KvLayoutSpec spec) {
    return std::string(KvLayout::Create(std::move(spec)).status().message());
  };
  KvLayoutSpec spec = Windowed();
  spec.layers[1].window = -1;
  EXPECT_THAT(message(spec), HasSubstr("window of layer 1 is -1"));
  spec = Stateful();
  spec.layers[0].state_bytes = 0;
  EXPECT_THAT(message(spec), HasSubstr("state of layer 0 has 0 bytes"));
  spec = Stateful();
  spec.layers[1].owner = 0;
  EXPECT_THAT(message(spec), HasSubstr("layer 1 names layer 0 as the owner of its K/V, which has"));
  spec.layers = {{.kind = KvLayerKind::kState, .state_bytes = 8}};
  EXPECT_THAT(message(spec), HasSubstr("no layer attends"));
}

// Gemma 3 (4B): 34 layers, every sixth global, window 1024, 4 KV heads of 256. At 32k tokens it
// holds at most a fifth of what one block format for all layers would.
TEST(KvGroups, FiveWindowedLayersToAGlobalOneHoldAFifth) {
  std::vector<int> owner(34);
  std::iota(owner.begin(), owner.end(), 0);
  KvLayoutSpec spec = UniformSpec(owner, 4, 256);
  const KvLayout one_format = MustCreate(spec);
  for (int layer = 0; layer < 34; ++layer) {
    if (layer % 6 != 5) spec.layers[layer].window = 1024;
  }
  const KvLayout layout = MustCreate(spec);
  constexpr int kTokens = 32 * 1024;
  EXPECT_EQ(layout.resident_bytes_per_token(), one_format.resident_bytes_per_token());
  EXPECT_EQ(layout.HeldBytes(kTokens), (5 * kTokens + 29 * 1024) * 4 * 2 * 256 * 2);
  EXPECT_LE(5 * layout.HeldBytes(kTokens), one_format.HeldBytes(kTokens));
  EXPECT_LE(5 * layout.PeakBytes(kTokens, 512), one_format.PeakBytes(kTokens, 512));
  EXPECT_LE(5 * layout.ReadBytes(kTokens, kTokens + 1), one_format.ReadBytes(kTokens, kTokens + 1));

  // The same of a table in a small pool: one layer's worth of dimensions less, the same blocks.
  for (KvLayerSpec& layer : spec.layers) layer.kv_heads = 1, layer.k_dim = layer.v_dim = 2;
  const KvLayout small = MustCreate(spec);
  auto manager = *KvCacheManager::Create(small, {.capacity_bytes = small.PeakBytes(kTokens, 512)});
  const std::vector<int32_t> tokens = Tokens(kTokens);
  BlockTable table = manager->NewTable();
  int64_t peak_bytes = 0;
  for (int end = 512; end <= kTokens; end += 512) {
    ASSERT_TRUE(manager->Reserve(&table, end));
    peak_bytes = std::max(peak_bytes, table.held_bytes());
    manager->Commit(0, absl::MakeConstSpan(tokens).first(end), &table);
  }
  EXPECT_EQ(table.held_bytes(), small.HeldBytes(kTokens));
  EXPECT_LE(peak_bytes, small.PeakBytes(kTokens, 512));
  for (KvLayerSpec& layer : spec.layers) layer.window = 0;
  EXPECT_LE(5 * peak_bytes, MustCreate(spec).HeldBytes(kTokens));
}

class KvGroupsTest : public ::testing::Test {
 protected:
  void Start(const KvLayoutSpec& spec, int64_t capacity_bytes, int snapshot_interval_tokens = 32,
             int max_snapshots = 4) {
    layout_ = MustCreate(spec);
    KvCacheConfig config{.capacity_bytes = capacity_bytes,
                         .poison_free_blocks = true,
                         .snapshot_interval_tokens = snapshot_interval_tokens,
                         .max_snapshots = max_snapshots};
    config.hash_key[0] = 1;
    manager_ = *KvCacheManager::Create(*layout_, config);
    pattern_.emplace(manager_->arena());
  }

  bool Extend(BlockTable* table, const std::vector<int32_t>& tokens) {
    if (!manager_->Reserve(table, static_cast<int>(tokens.size()))) return false;
    pattern_->WriteAll(*table, 0, tokens, table->num_tokens());
    manager_->Commit(0, tokens, table);
    return true;
  }

  BlockTable Make(const std::vector<int32_t>& tokens) {
    BlockTable table = manager_->NewTable();
    EXPECT_TRUE(Extend(&table, tokens));
    return table;
  }

  std::optional<KvLayout> layout_;
  std::unique_ptr<KvCacheManager> manager_;
  std::optional<KvPattern> pattern_;
};

// full:    [16][16][16][16][ 4]
// window:   -   -   -  [16][ 4]      position 68 sees (48, 68]: block 3 on
TEST_F(KvGroupsTest, ASequenceGivesBackWhatLiesBehindItsWindow) {
  Start(Windowed(), 1 << 20);
  BlockTable table = Make(Tokens(68));
  EXPECT_EQ(table.blocks(0).size(), 5u);
  EXPECT_EQ(table.blocks(1).size(), 5u);
  EXPECT_EQ(table.blocks(1)[2], kNoBlock);
  EXPECT_NE(table.blocks(1)[3], kNoBlock);
  EXPECT_EQ(table.num_blocks(), 5 + 2);
  EXPECT_EQ(table.held_bytes(), layout_->HeldBytes(68));
  // What was given back is cached, and counted so.
  EXPECT_EQ(manager_->stats().cached_bytes,
            3 * static_cast<int64_t>(layout_->group(1).block_bytes));
  EXPECT_TRUE(pattern_->MatchesAll(table, 0, Tokens(68)));
}

TEST_F(KvGroupsTest, APrefixIsFoundWhereEveryGroupHasWhatItNeeds) {
  Start(Windowed(), 1 << 20);
  const std::vector<int32_t> tokens = Tokens(96);
  Make(tokens);
  EXPECT_EQ(KvCachePeer::CachedPrefix(*manager_, 0, tokens, 95), 80);
  EXPECT_EQ(KvCachePeer::CachedPrefix(*manager_, 0, tokens, 96), 96);

  // A shorter hit takes the window's earlier blocks, not those at its end.
  BlockTable table = manager_->NewTable();
  EXPECT_EQ(manager_->AttachPrefix(0, tokens, 64, &table), 64);
  EXPECT_EQ(table.blocks(1)[1], kNoBlock);  // position 64 sees 45 on
  EXPECT_NE(table.blocks(1)[2], kNoBlock);
  EXPECT_TRUE(pattern_->MatchesAll(table, 0, tokens));
  // The copy before a write, and the rest, as in every group.
  ASSERT_TRUE(Extend(&table, tokens));
  EXPECT_TRUE(pattern_->MatchesAll(table, 0, tokens));
}

TEST_F(KvGroupsTest, TruncateSaysWhetherTheWindowIsStillThere) {
  Start(Windowed(), 1 << 20);
  BlockTable table = Make(Tokens(70));  // holds blocks 3 and 4 of the window
  EXPECT_EQ(manager_->Truncate(&table, 69), 69);
  EXPECT_EQ(manager_->Truncate(&table, 67), 67);  // sees 48 on
  EXPECT_EQ(manager_->Truncate(&table, 66), 0);   // would see 47
  EXPECT_TRUE(table.empty());
  EXPECT_EQ(manager_->stats().live_bytes, 0);
}

// The pool is one budget: what windowed blocks held becomes full ones' memory and back.
TEST_F(KvGroupsTest, FreeMemoryOfOneGroupBecomesAnothers) {
  KvLayoutSpec spec = Windowed();
  // Blocks of many pages, so that handing back can be seen.
  for (KvLayerSpec& layer : spec.layers) layer.k_dim = layer.v_dim = 1024;
  const KvLayout layout = MustCreate(spec);
  const int64_t capacity_bytes = layout.PeakBytes(160, 160);
  Start(spec, capacity_bytes);
  for (int round = 0; round < 3; ++round) {
    // In one step: as many windowed blocks as full ones.
    Make(Tokens(160, 1000 * round));
    manager_->EvictCache(0);
    EXPECT_LE(KvCachePeer::ResidentBytes(*manager_), capacity_bytes);
    // In small steps the windowed group keeps two blocks, and the full one has room for more.
    BlockTable table = manager_->NewTable();
    std::vector<int32_t> tokens;
    while (manager_->BytesNeeded(table, static_cast<int>(tokens.size()) + 8) <=
           manager_->available_bytes()) {
      tokens = Tokens(static_cast<int>(tokens.size()) + 8, 500'000 + 1000 * round);
      ASSERT_TRUE(Extend(&table, tokens));
    }
    EXPECT_GT(tokens.size(), 300u);
    EXPECT_LE(KvCachePeer::ResidentBytes(*manager_), capacity_bytes);
    EXPECT_TRUE(pattern_->MatchesAll(table, 0, tokens));
    table.Clear();
    manager_->EvictCache(0);
  }
}

TEST_F(KvGroupsTest, BytesToReachCountsWindowsOnce) {
  Start(Windowed(), 1 << 20);
  const auto full = static_cast<int64_t>(layout_->group(0).block_bytes);
  const auto window = static_cast<int64_t>(layout_->group(1).block_bytes);
  BlockTable table = manager_->NewTable();
  EXPECT_EQ(manager_->BytesToReach(table, 160, 160), 10 * (full + window));
  // Steps of 16 from position p see 19 positions before it and write 16: at most 4 blocks.
  EXPECT_EQ(manager_->BytesToReach(table, 160, 16), 10 * full + 4 * window);
  ASSERT_TRUE(Extend(&table, Tokens(68)));
  EXPECT_EQ(manager_->BytesToReach(table, 160, 16), 5 * full + 2 * window);
  EXPECT_EQ(manager_->BytesNeeded(table, 84), full + window);
}

// Snapshots at 32 and 64; the state itself only at the end.
TEST_F(KvGroupsTest, AHitEndsAtASnapshot) {
  Start(Stateful(), 1 << 20);
  EXPECT_EQ(manager_->NextSnapshot(0), 32);
  EXPECT_EQ(manager_->NextSnapshot(32), 64);
  const std::vector<int32_t> tokens = Tokens(90);
  BlockTable table = manager_->NewTable();
  for (const int end : {32, 50, 64, 90})
    ASSERT_TRUE(Extend(&table, {tokens.begin(), tokens.begin() + end}));
  EXPECT_EQ(manager_->stats().snapshots, 2);
  EXPECT_EQ(manager_->stats().state_live_bytes,
            static_cast<int64_t>(layout_->state_bytes_per_sequence()));
  EXPECT_EQ(manager_->stats().state_cached_bytes,
            2 * static_cast<int64_t>(layout_->state_bytes_per_sequence()));
  table.Clear();
  EXPECT_EQ(KvCachePeer::CachedPrefix(*manager_, 0, tokens, 63), 32);
  BlockTable hit = manager_->NewTable();
  EXPECT_EQ(manager_->AttachPrefix(0, tokens, 89, &hit), 64);
  EXPECT_TRUE(pattern_->MatchesAll(hit, 0, tokens));
  // The snapshot is copied before it is written, and stays.
  ASSERT_TRUE(Extend(&hit, tokens));
  EXPECT_TRUE(pattern_->MatchesAll(hit, 0, tokens));
  BlockTable again = manager_->NewTable();
  EXPECT_EQ(manager_->AttachPrefix(0, tokens, 89, &again), 64);
  EXPECT_TRUE(pattern_->MatchesAll(again, 0, tokens));
}

TEST_F(KvGroupsTest, SnapshotsAreBoundedAndTheOldestGoes) {
  Start(Stateful(), 1 << 20, /*snapshot_interval_tokens=*/16, /*max_snapshots=*/2);
  const std::vector<int32_t> tokens = Tokens(64);
  BlockTable table = manager_->NewTable();
  for (int end = 16; end <= 64; end += 16)
    ASSERT_TRUE(Extend(&table, {tokens.begin(), tokens.begin() + end}));
  EXPECT_EQ(manager_->stats().snapshots, 4);
  EXPECT_EQ(manager_->num_cached(layout_->state_group()), 2);
  EXPECT_EQ(KvCachePeer::CachedPrefix(*manager_, 0, tokens, 32), 0);
  EXPECT_EQ(KvCachePeer::CachedPrefix(*manager_, 0, tokens, 64), 64);
  table.Clear();
  Start(Stateful(), 1 << 20, 16, /*max_snapshots=*/0);
  EXPECT_EQ(manager_->NextSnapshot(0), std::numeric_limits<int>::max());
}

TEST_F(KvGroupsTest, ForksCopyTheStateBeforeTheyWrite) {
  Start(Stateful(), 1 << 20);
  const auto slot = static_cast<int64_t>(layout_->state_bytes_per_sequence());
  const auto block = static_cast<int64_t>(layout_->group(0).block_bytes);
  BlockTable a = Make(Tokens(40));
  BlockTable b = manager_->Fork(a);
  EXPECT_EQ(a.state_slot(), b.state_slot());
  EXPECT_EQ(manager_->stats().live_bytes, 3 * block + slot);
  EXPECT_EQ(manager_->BytesNeeded(b, 41), block + slot);
  auto longer = Tokens(40);
  longer.push_back(7);
  ASSERT_TRUE(Extend(&b, longer));
  EXPECT_NE(a.state_slot(), b.state_slot());
  EXPECT_TRUE(pattern_->MatchesAll(a, 0, Tokens(40)));
  EXPECT_TRUE(pattern_->MatchesAll(b, 0, longer));
  // There is no way back for a state.
  EXPECT_EQ(manager_->Truncate(&b, 40), 0);
  EXPECT_EQ(manager_->Truncate(&a, 40), 40);
}

// With room for one slot only, a sequence that found a snapshot writes over it.
TEST_F(KvGroupsTest, ASnapshotIsWorthACopyButNoMore) {
  KvLayoutSpec spec = Stateful();
  spec.layers[0].state_bytes = 4096;
  const KvLayout layout = MustCreate(spec);
  const auto slot = static_cast<int64_t>(layout.state_bytes_per_sequence());
  Start(spec, 4 * static_cast<int64_t>(layout.group(0).block_bytes) + 2 * slot);
  {
    BlockTable first = Make(Tokens(32));  // to a border, where the snapshot is taken
    ASSERT_TRUE(Extend(&first, Tokens(40)));
  }
  BlockTable other = manager_->NewTable();
  ASSERT_TRUE(manager_->Reserve(&other, 1));  // takes the other slot
  BlockTable table = manager_->NewTable();
  ASSERT_EQ(manager_->AttachPrefix(0, Tokens(40), 39, &table), 32);
  EXPECT_LT(manager_->available_bytes(), slot);
  ASSERT_TRUE(Extend(&table, Tokens(40)));
  EXPECT_TRUE(pattern_->MatchesAll(table, 0, Tokens(40)));
  table.Clear();
  EXPECT_EQ(KvCachePeer::CachedPrefix(*manager_, 0, Tokens(40), 39), 0);
}

TEST(KvGroupsBudget, CountsWindowsAndStates) {
  KvLayoutSpec spec = Windowed();
  spec.layers.push_back({.kind = KvLayerKind::kState, .state_bytes = 64 * 1024});
  const KvLayout layout = MustCreate(spec);
  const int64_t unit = static_cast<int64_t>(layout.block_bytes());
  const int64_t least = layout.PeakBytes(1600, 64);
  EXPECT_EQ(least, 100 * static_cast<int64_t>(layout.group(0).block_bytes) +
                       7 * static_cast<int64_t>(layout.group(1).block_bytes) + 64 * 1024);
  EXPECT_TRUE(ComputeKvBudget(
                  layout, {.kv_cache_bytes = least + unit, .min_tokens = 1600, .step_tokens = 64})
                  .ok());
  EXPECT_FALSE(ComputeKvBudget(
                   layout, {.kv_cache_bytes = least - unit, .min_tokens = 1600, .step_tokens = 64})
                   .ok());
}

}  // namespace
}  // namespace kvasir
