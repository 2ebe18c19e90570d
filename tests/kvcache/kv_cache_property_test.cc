// Random operations on the cache manager beside its naive twin, a million for each sharing
// scheme and kind of rows. After every one: the same answer, the pool's counters equal to the
// twin's and adding up, proportional bytes adding up to the live ones, and slots of the table at
// hand holding what its tokens say. Every thousand: every slot of every table, and the same sharing
// block by block.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <utility>

#include "absl/base/config.h"
#include "kvcache/kv_cache_manager.h"
#include "tests/kvcache/kv_cache_peer.h"
#include "tests/kvcache/kv_cache_twin.h"
#include "tests/kvcache/kv_pattern.h"
#include "tests/kvcache/kv_schemes.h"

namespace kvasir {
namespace {

using testing::KvCacheTwin;
using testing::KvPattern;
using Tokens = KvCacheTwin::Tokens;

// The policy is single threaded and its memory plain, so sanitizers need no million to see a fault.
#if defined(ABSL_HAVE_THREAD_SANITIZER) || defined(ABSL_HAVE_ADDRESS_SANITIZER)
constexpr int kSteps = 200'000;
#else
constexpr int kSteps = 1'000'000;
#endif

constexpr int kNumTables = 10;
constexpr int kSnapshotInterval = 16;
constexpr int kMaxSnapshots = 12;
constexpr int kMaxTokens = 128;
constexpr int kNumAccounts = 3;
// Divisible by every possible number of holders: shares of a block are then whole numbers.
constexpr int64_t kShares = 2520;  // lcm(1..10)
static_assert(kNumTables == 10);

class Walk {
 public:
  Walk(const KvLayout& layout, unsigned seed)
      : layout_(layout),
        twin_(ConfigOfTwin(layout), kNumTables),
        random_(seed),
        scopes_(kNumTables, 0),
        tokens_(kNumTables) {
    KvCacheConfig config{.capacity_bytes = CapacityBytes(layout),
                         .poison_free_blocks = true,
                         .snapshot_interval_tokens = kSnapshotInterval,
                         .max_snapshots = kMaxSnapshots};
    config.hash_key.fill(static_cast<uint8_t>(seed + 1));
    manager_ = *KvCacheManager::Create(layout, config);
    pattern_.emplace(manager_->arena());
    for (int t = 0; t < kNumTables; ++t) tables_.push_back(manager_->NewTable(t % kNumAccounts));
  }

  void Step() {
    const int t = Below(kNumTables);
    const int dice = Below(100);
    if (tables_[t].empty()) {
      if (dice < 75) {
        Start(t);
      } else if (dice < 90) {
        Fork(t);
      } else {
        ImportFrom(t);
      }
    } else if (dice < 70) {
      Grow(t);
    } else if (dice < 84) {
      Truncate(t);
    } else if (dice < 96) {
      tables_[t].Clear();
      twin_.Clear(t);
    } else if (dice < 99) {
      Swap(t);
    } else if (Below(10) == 0) {
      manager_->EvictCache(0);
      twin_.DropCache();
    }
    CheckStep(t);
  }

  void CheckEverything() {
    to_twin_.clear();
    to_block_.clear();
    for (int t = 0; t < kNumTables; ++t) {
      ASSERT_EQ(tables_[t].num_tokens(), twin_.table(t).num_tokens);
      ASSERT_TRUE(pattern_->MatchesAll(tables_[t], scopes_[t], tokens_[t])) << "table " << t;
      for (int g = 0; g < layout_.num_block_groups(); ++g) {
        const auto& list = twin_.table(t).lists[g];
        ASSERT_EQ(tables_[t].blocks(g).size(), list.size());
        for (size_t i = 0; i < list.size(); ++i) CheckSame(g, tables_[t].blocks(g)[i], list[i]);
      }
      if (layout_.has_state())
        CheckSame(layout_.state_group(), tables_[t].state_slot(), twin_.table(t).state);
    }
    ASSERT_EQ(twin_.live(), twin_.CountLive());
  }

  void Finish() {
    for (int t = 0; t < kNumTables; ++t) tables_[t].Clear();
    manager_->EvictCache(0);
    const KvCacheManager::PoolStats stats = manager_->stats();
    EXPECT_EQ(stats.free_bytes, stats.capacity_bytes);
    // The walk went where it should: nothing below is rare.
    EXPECT_GT(stats.evictions, kSteps / 20);
    EXPECT_GT(stats.cow_copies, kSteps / 100);
    EXPECT_GT(stats.deduplicated_blocks, kSteps / 100);
    // A hit in the middle of a history is rare where it needs a snapshot.
    EXPECT_GT(stats.prefix_hit_tokens, layout_.has_state() ? kSteps / 200
                                       : Forgets(layout_)  ? kSteps / 4
                                                           : kSteps);
    EXPECT_GT(refusals_, kSteps / 50);
    EXPECT_EQ(forgotten_ > kSteps / 100, Forgets(layout_));
    EXPECT_EQ(stats.snapshots > kSteps / 100, layout_.has_state());
  }

 private:
  static bool Forgets(const KvLayout& layout) {
    return layout.has_state() || layout.num_block_groups() > 1 || !layout.has_full_group();
  }

  // Tight, also where sequences hold less than all of their positions.
  static int64_t CapacityBytes(const KvLayout& layout) {
    if (!Forgets(layout)) return testing::BytesOf(layout, 32);
    const int64_t sequence_bytes = layout.PeakBytes(kMaxTokens + 20, kMaxTokens + 20);
    return sequence_bytes + testing::BytesOf(layout, 6);
  }

  static testing::TwinConfig ConfigOfTwin(const KvLayout& layout) {
    testing::TwinConfig config{
        .state_bytes = static_cast<int64_t>(layout.state_bytes_per_sequence()),
        .snapshot_interval_tokens = layout.has_state() ? kSnapshotInterval : 0,
        .max_snapshots = kMaxSnapshots,
        .capacity_bytes = CapacityBytes(layout),
        .block_tokens = layout.block_tokens()};
    for (int g = 0; g < layout.num_block_groups(); ++g) {
      const KvGroup& group = layout.group(g);
      config.groups.push_back({group.window, static_cast<int64_t>(group.block_bytes)});
    }
    return config;
  }

  void CheckSame(int group, BlockId block, const KvCacheTwin::BlockPtr& other) {
    ASSERT_EQ(block == kNoBlock, other == nullptr);
    if (other == nullptr) return;
    const std::pair<int, BlockId> id(group, block);
    ASSERT_EQ(to_twin_.try_emplace(id, other.get()).first->second, other.get());
    ASSERT_EQ(to_block_.try_emplace(other.get(), id).first->second, id);
    ASSERT_EQ(KvCachePeer::RefCount(*manager_, group, block), twin_.References(other));
    ASSERT_EQ(KvCachePeer::IsFindable(*manager_, group, block), other->filed.has_value());
  }

  int Below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }

  // A prompt that often shares a beginning with another sequence: part of somebody's history, then
  // a few tokens of a tiny vocabulary.
  Tokens Prompt() {
    Tokens prompt;
    if (Below(4) != 0) {
      const Tokens& history = tokens_[Below(kNumTables)];
      prompt.assign(history.begin(), history.begin() + Below(static_cast<int>(history.size()) + 1));
    }
    const int more = Below(std::max(1, std::min(40, kMaxTokens - static_cast<int>(prompt.size()))));
    const int32_t token = Below(3);
    for (int i = 0; i <= more; ++i) prompt.push_back(Below(12) == 0 ? Below(3) : token);
    return prompt;
  }

  void Start(int t) {
    scopes_[t] = Below(2);
    Tokens prompt = Prompt();
    const int max_tokens = Below(5) == 0 ? Below(kMaxTokens) : static_cast<int>(prompt.size()) - 1;
    const int peek = KvCachePeer::CachedPrefix(*manager_, scopes_[t], prompt, max_tokens);
    const int hit = manager_->AttachPrefix(scopes_[t], prompt, max_tokens, &tables_[t]);
    ASSERT_EQ(peek, hit);
    ASSERT_EQ(hit, twin_.Attach(t, scopes_[t], prompt, max_tokens));
    tokens_[t] = prompt;
    tokens_[t].resize(hit);
    if (Below(3) != 0) ExtendTo(t, prompt, static_cast<int>(prompt.size()));
  }

  void Grow(int t) {
    Tokens longer = tokens_[t];
    longer.resize(tables_[t].num_tokens());
    const int room = kMaxTokens - static_cast<int>(longer.size());
    if (room <= 0) return;
    const int more = 1 + Below(std::min(room, Below(3) == 0 ? 40 : 6));
    const int32_t token = Below(3);
    for (int i = 0; i < more; ++i) longer.push_back(token);
    ExtendTo(t, longer, static_cast<int>(longer.size()) + (Below(4) == 0 ? Below(20) : 0));
  }

  // Reserves up to reserve_end, computes and commits `longer`.
  void ExtendTo(int t, const Tokens& longer, int reserve_end) {
    ASSERT_EQ(manager_->BytesNeeded(tables_[t], reserve_end), twin_.Needed(t, reserve_end));
    const bool ok = manager_->Reserve(&tables_[t], reserve_end);
    ASSERT_EQ(ok, twin_.Reserve(t, reserve_end));
    if (!ok) {
      ++refusals_;
      return;
    }
    pattern_->WriteAll(tables_[t], scopes_[t], longer, tables_[t].num_tokens());
    manager_->Commit(scopes_[t], longer, &tables_[t]);
    twin_.Commit(t, scopes_[t], longer);
    tokens_[t] = longer;
  }

  void Fork(int t) {
    const int from = Below(kNumTables);
    tables_[t] = manager_->Fork(tables_[from]);
    if (from != t) twin_.Fork(from, t);
    scopes_[t] = scopes_[from];
    tokens_[t] = tokens_[from];
  }

  // A session that went to disk and came back beside the original.
  void ImportFrom(int t) {
    const int from = Below(kNumTables);
    const int num_tokens = tables_[from].num_tokens();
    if (num_tokens == 0) return;
    const std::vector<uint8_t> payload = manager_->ExportBlocks(tables_[from]);
    const bool ok = ImportBlocks(payload, num_tokens, manager_.get(), &tables_[t]);
    ASSERT_EQ(ok, twin_.ReserveImport(t, num_tokens));
    if (!ok) {
      ++refusals_;
      return;
    }
    scopes_[t] = scopes_[from];
    tokens_[t] = tokens_[from];
    tokens_[t].resize(num_tokens);
    manager_->Commit(scopes_[t], tokens_[t], &tables_[t]);
    twin_.Commit(t, scopes_[t], tokens_[t]);
  }

  void Truncate(int t) {
    const int old_tokens = tables_[t].num_tokens();
    // Mostly a few tokens, as when speculation is undone; sometimes anywhere.
    const int num_tokens =
        Below(3) == 0 ? Below(old_tokens + 1) : old_tokens - Below(std::min(old_tokens, 20) + 1);
    const int left = manager_->Truncate(&tables_[t], num_tokens);
    ASSERT_EQ(left, twin_.Truncate(t, num_tokens));
    if (left != num_tokens) ++forgotten_;
    tokens_[t].resize(left);
  }

  void Swap(int t) {
    const int other = Below(kNumTables);
    if (other == t) return;
    BlockTable moved = std::move(tables_[t]);
    tables_[t] = std::move(tables_[other]);
    tables_[other] = std::move(moved);
    twin_.Swap(t, other);
    std::swap(scopes_[t], scopes_[other]);
    std::swap(tokens_[t], tokens_[other]);
  }

  void CheckStep(int t) {
    const KvCacheManager::PoolStats stats = manager_->stats();
    ASSERT_EQ(stats.live_bytes, twin_.live());
    ASSERT_EQ(stats.cached_bytes, twin_.cached());
    ASSERT_EQ(stats.live_bytes + stats.cached_bytes + stats.free_bytes, stats.capacity_bytes);
    ASSERT_LE(stats.live_bytes + stats.cached_bytes, KvCachePeer::ResidentBytes(*manager_));
    ASSERT_LE(KvCachePeer::ResidentBytes(*manager_), stats.capacity_bytes);
    ASSERT_EQ(stats.evictions, twin_.evictions());
    ASSERT_EQ(stats.cow_copies, twin_.copies());
    ASSERT_EQ(stats.deduplicated_blocks, twin_.deduplicated());
    ASSERT_EQ(stats.snapshots, twin_.snapshots());

    int64_t shares = 0;
    double proportional = 0;
    for (const BlockTable& table : tables_) {
      int64_t held_bytes = 0;
      const auto count = [&](int group, BlockId block) {
        if (block == kNoBlock) return;
        const auto bytes = static_cast<int64_t>(layout_.group(group).block_bytes);
        held_bytes += bytes;
        shares += kShares / KvCachePeer::RefCount(*manager_, group, block) * bytes;
      };
      for (int g = 0; g < layout_.num_block_groups(); ++g) {
        for (const BlockId block : table.blocks(g)) count(g, block);
      }
      count(layout_.num_block_groups(), table.state_slot());
      ASSERT_EQ(table.held_bytes(), held_bytes);
      proportional += manager_->Bytes(table).proportional;
    }
    ASSERT_EQ(shares, kShares * stats.live_bytes);
    int64_t live_of_accounts = 0;
    for (int account = 0; account < kNumAccounts; ++account)
      live_of_accounts += manager_->live_bytes(account);
    ASSERT_EQ(live_of_accounts, stats.live_bytes);
    ASSERT_NEAR(proportional, static_cast<double>(stats.live_bytes), 1e-3);

    const int num_tokens = tables_[t].num_tokens();
    if (num_tokens == 0) return;
    const int spot = Below(num_tokens);
    uint64_t history = KvPattern::Seed(scopes_[t]);
    for (int p = 0; p < num_tokens; ++p) {
      history = KvPattern::Next(history, tokens_[t][p]);
      if (p == num_tokens - 1) {
        ASSERT_TRUE(pattern_->StateMatches(tables_[t], history)) << "table " << t;
      }
      if (p == spot || p == num_tokens - 1) {
        ASSERT_TRUE(pattern_->Matches(tables_[t], p, history))
            << "table " << t << " position " << p;
      }
    }
  }

  const KvLayout layout_;
  KvCacheTwin twin_;
  std::mt19937 random_;
  std::unique_ptr<KvCacheManager> manager_;
  std::optional<KvPattern> pattern_;
  std::vector<BlockTable> tables_;
  std::vector<uint64_t> scopes_;
  std::vector<Tokens> tokens_;  // of computed positions
  std::map<std::pair<int, BlockId>, const void*> to_twin_;
  std::map<const void*, std::pair<int, BlockId>> to_block_;
  int64_t refusals_ = 0;
  int64_t forgotten_ = 0;  // truncations that left nothing
};

class KvCacheProperty : public ::testing::TestWithParam<testing::TinyScheme> {};

TEST_P(KvCacheProperty, RandomOperationsEqualTheTwin) {
  // A walk of its own for each scheme; the same in every run.
  const unsigned seed =
      static_cast<unsigned>(GetParam().spec.layers.size() * 8 + GetParam().name[0]);
  Walk walk(testing::MustCreate(GetParam().spec), seed);
  for (int step = 0; step < kSteps; ++step) {
    walk.Step();
    if (step % 1'000 == 0) walk.CheckEverything();
    if (HasFatalFailure()) FAIL() << "at step " << step;
  }
  walk.CheckEverything();
  walk.Finish();
}

INSTANTIATE_TEST_SUITE_P(Schemes, KvCacheProperty, ::testing::ValuesIn(testing::TinySchemes()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvasir
