// The naive twin of KvCacheManager: the same policy written the slow and obvious way. Prefixes are
// looked up by their full token lists in a std::map, references are counted by looking into every
// table, the LRU list is a vector. Blocks have no number and no content, a state is a block like
// others. Header only, for the property test.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace kvasir::testing {

struct TwinGroup {
  int window = 0;  // 0: full
  int64_t block_bytes = 0;
};

struct TwinConfig {
  std::vector<TwinGroup> groups;  // of blocks
  int64_t state_bytes = 0;        // 0: there are no states
  int snapshot_interval_tokens = 0;
  int max_snapshots = 0;
  int64_t capacity_bytes = 0;
  int block_tokens = 16;
};

class KvCacheTwin {
 public:
  using Tokens = std::vector<int32_t>;
  // group (-1: state), scope, tokens from position 0 to the end of the block
  using Name = std::tuple<int, uint64_t, Tokens>;

  struct Block {
    int group = 0;
    int64_t bytes = 0;
    std::optional<Name> filed;
  };
  using BlockPtr = std::shared_ptr<Block>;

  struct Table {
    std::vector<std::vector<BlockPtr>> lists;  // [groups]; null where given back
    BlockPtr state;
    int num_tokens = 0;
    bool empty() const { return num_tokens == 0 && state == nullptr && lists[0].empty(); }
  };

  KvCacheTwin(TwinConfig config, int num_tables) : config_(std::move(config)), tables_(num_tables) {
    for (Table& table : tables_) table.lists.resize(config_.groups.size());
  }

  const Table& table(int t) const { return tables_[t]; }

  int References(const BlockPtr& block) const {
    int references = 0;
    for (const Table& table : tables_) {
      for (const auto& list : table.lists)
        references += static_cast<int>(std::count(list.begin(), list.end(), block));
      references += table.state == block ? 1 : 0;
    }
    return references;
  }

  int64_t live() const { return live_; }
  // Bytes of blocks held by at least one table, found by looking.
  int64_t CountLive() const {
    std::vector<const Block*> seen;
    for (const Table& table : tables_) {
      for (const auto& list : table.lists) {
        for (const auto& block : list) seen.push_back(block.get());
      }
      seen.push_back(table.state.get());
    }
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    int64_t bytes = 0;
    for (const Block* block : seen) bytes += block == nullptr ? 0 : block->bytes;
    return bytes;
  }
  int64_t cached() const {
    int64_t bytes = 0;
    for (const BlockPtr& block : cached_) bytes += block->bytes;
    return bytes;
  }
  int64_t evictions() const { return evictions_; }
  int64_t copies() const { return copies_; }
  int64_t deduplicated() const { return deduplicated_; }
  int64_t snapshots() const { return snapshots_; }

  int Peek(uint64_t scope, const Tokens& tokens, int max_tokens) const {
    const int limit = std::min<int>(max_tokens, static_cast<int>(tokens.size()));
    int longest = 0;
    for (int end = config_.block_tokens; end <= limit; end += config_.block_tokens) {
      bool complete = config_.state_bytes == 0 || Find(-1, scope, tokens, end) != nullptr;
      for (int g = 0; g < num_groups(); ++g) {
        for (int i = FirstNeeded(g, end); i < end / config_.block_tokens; ++i)
          complete &= Find(g, scope, tokens, (i + 1) * config_.block_tokens) != nullptr;
      }
      if (complete) longest = end;
    }
    return longest;
  }

  int Attach(int t, uint64_t scope, const Tokens& tokens, int max_tokens) {
    const int hit = Peek(scope, tokens, max_tokens);
    Table& table = tables_[t];
    if (hit == 0) return 0;
    for (int g = 0; g < num_groups(); ++g) {
      table.lists[g].assign(FirstNeeded(g, hit), nullptr);
      for (int i = FirstNeeded(g, hit); i < hit / config_.block_tokens; ++i)
        table.lists[g].push_back(Hold(Find(g, scope, tokens, (i + 1) * config_.block_tokens)));
    }
    if (config_.state_bytes != 0) table.state = Hold(Find(-1, scope, tokens, hit));
    table.num_tokens = hit;
    return hit;
  }

  int64_t Needed(int t, int end) const {
    const Table& table = tables_[t];
    if (end <= table.num_tokens) return 0;
    int64_t bytes = 0;
    for (int g = 0; g < num_groups(); ++g) {
      int blocks = std::max(0, BlocksFor(end) - static_cast<int>(table.lists[g].size()));
      if (table.num_tokens % config_.block_tokens != 0 && References(LastFilled(t, g)) > 1)
        ++blocks;
      bytes += blocks * config_.groups[g].block_bytes;
    }
    if (table.state == nullptr || References(table.state) > 1) bytes += config_.state_bytes;
    return bytes;
  }

  bool Reserve(int t, int end) {
    Table& table = tables_[t];
    if (end <= table.num_tokens) return true;
    if (Needed(t, end) > config_.capacity_bytes - live()) return false;
    for (int g = 0; g < num_groups(); ++g) {
      if (table.num_tokens % config_.block_tokens != 0) {
        BlockPtr& last = table.lists[g][table.num_tokens / config_.block_tokens];
        if (References(last) > 1) {
          ++copies_;
          last = Take(g);  // the others keep the old one live
        } else if (last->filed) {
          filed_.erase(*last->filed);
          last->filed.reset();
        }
      }
      while (static_cast<int>(table.lists[g].size()) < BlocksFor(end))
        table.lists[g].push_back(Take(g));
    }
    if (config_.state_bytes != 0) MakeStateWritable(&table);
    return true;
  }

  void Commit(int t, uint64_t scope, const Tokens& tokens) {
    Table& table = tables_[t];
    const int first = table.num_tokens / config_.block_tokens;
    if (table.num_tokens == static_cast<int>(tokens.size())) return;
    table.num_tokens = static_cast<int>(tokens.size());
    for (int i = first; (i + 1) * config_.block_tokens <= table.num_tokens; ++i) {
      for (int g = 0; g < num_groups(); ++g) {
        if (table.lists[g][i] == nullptr) continue;
        const Name name = NameOf(g, scope, tokens, (i + 1) * config_.block_tokens);
        const auto [it, inserted] = filed_.try_emplace(name, table.lists[g][i]);
        if (inserted) {
          table.lists[g][i]->filed = name;
          continue;
        }
        live_ -= table.lists[g][i]->bytes;  // ours was never filed: it is free now
        table.lists[g][i] = Hold(it->second);
        ++deduplicated_;
      }
    }
    if (config_.snapshot_interval_tokens != 0 &&
        table.num_tokens % config_.snapshot_interval_tokens == 0) {
      TakeSnapshot(scope, tokens);
    }
    for (int g = 0; g < num_groups(); ++g) {
      for (int i = 0; i < FirstNeeded(g, table.num_tokens); ++i) Drop(&table.lists[g][i]);
    }
  }

  void Fork(int from, int to) {
    const Table& table = tables_[from];
    Table& fork = tables_[to];
    for (int g = 0; g < num_groups(); ++g) {
      fork.lists[g].assign(table.lists[g].begin(),
                           table.lists[g].begin() + BlocksFor(table.num_tokens));
    }
    if (table.num_tokens > 0) fork.state = table.state;
    fork.num_tokens = table.num_tokens;
  }

  int Truncate(int t, int num_tokens) {
    Table& table = tables_[t];
    bool possible = num_tokens > 0 && (num_tokens == table.num_tokens || config_.state_bytes == 0);
    for (int g = 0; g < num_groups() && possible; ++g) {
      for (int i = FirstNeeded(g, num_tokens); i < BlocksFor(num_tokens); ++i)
        possible &= table.lists[g][i] != nullptr;
    }
    if (!possible) num_tokens = 0;
    if (num_tokens == 0) Drop(&table.state);
    while (static_cast<int>(table.lists[0].size()) > BlocksFor(num_tokens)) {
      for (auto& list : table.lists) {
        Drop(&list.back());
        list.pop_back();
      }
    }
    table.num_tokens = num_tokens;
    return num_tokens;
  }

  void Clear(int t) { Truncate(t, 0); }

  void Swap(int a, int b) { std::swap(tables_[a], tables_[b]); }

  bool ReserveImport(int t, int num_tokens) {
    Table& table = tables_[t];
    int64_t bytes = config_.state_bytes;
    for (int g = 0; g < num_groups(); ++g) {
      bytes += (BlocksFor(num_tokens) - FirstNeeded(g, num_tokens)) * config_.groups[g].block_bytes;
    }
    if (bytes > config_.capacity_bytes - live()) return false;
    for (int g = 0; g < num_groups(); ++g) {
      table.lists[g].assign(FirstNeeded(g, num_tokens), nullptr);
      while (static_cast<int>(table.lists[g].size()) < BlocksFor(num_tokens))
        table.lists[g].push_back(Take(g));
    }
    if (config_.state_bytes != 0) table.state = Take(-1);
    return true;
  }

  void DropCache() {
    for (const BlockPtr& block : cached_) filed_.erase(*block->filed);
    cached_.clear();
  }

 private:
  int num_groups() const { return static_cast<int>(config_.groups.size()); }
  int BlocksFor(int tokens) const {
    return (tokens + config_.block_tokens - 1) / config_.block_tokens;
  }
  int FirstNeeded(int group, int tokens) const {
    const int window = config_.groups[group].window;
    return window == 0 ? 0 : std::max(0, tokens - window + 1) / config_.block_tokens;
  }

  static Name NameOf(int group, uint64_t scope, const Tokens& tokens, int end) {
    return {group, scope, Tokens(tokens.begin(), tokens.begin() + end)};
  }
  BlockPtr Find(int group, uint64_t scope, const Tokens& tokens, int end) const {
    const auto found = filed_.find(NameOf(group, scope, tokens, end));
    return found == filed_.end() ? nullptr : found->second;
  }
  const BlockPtr& LastFilled(int t, int group) const {
    return tables_[t].lists[group][tables_[t].num_tokens / config_.block_tokens];
  }

  // For a table to hold: no longer cached.
  BlockPtr Hold(const BlockPtr& block) {
    if (std::erase(cached_, block) != 0) live_ += block->bytes;
    return block;
  }
  // A table lets go of the block.
  void Drop(BlockPtr* held) {
    const BlockPtr block = std::exchange(*held, nullptr);
    if (block == nullptr || References(block) > 0) return;
    live_ -= block->bytes;
    if (block->filed) cached_.push_back(block);
  }

  BlockPtr Take(int group) {
    const int64_t bytes = group < 0 ? config_.state_bytes : config_.groups[group].block_bytes;
    while (config_.capacity_bytes - live() - cached() < bytes) Evict(cached_.begin());
    auto block = std::make_shared<Block>();
    block->group = group;
    block->bytes = bytes;
    live_ += bytes;
    return block;
  }

  void Evict(std::vector<BlockPtr>::iterator block) {
    filed_.erase(*(*block)->filed);
    cached_.erase(block);
    ++evictions_;
  }

  void MakeStateWritable(Table* table) {
    if (table->state == nullptr) {
      table->state = Take(-1);
      return;
    }
    const bool shared = References(table->state) > 1;
    if (!shared && !table->state->filed) return;
    if (!shared && config_.capacity_bytes - live() < config_.state_bytes) {
      filed_.erase(*table->state->filed);
      table->state->filed.reset();
      return;
    }
    const BlockPtr copy = Take(-1);
    Drop(&table->state);
    table->state = copy;
    ++copies_;
  }

  void TakeSnapshot(uint64_t scope, const Tokens& tokens) {
    if (const BlockPtr known = Find(-1, scope, tokens, static_cast<int>(tokens.size()))) {
      const auto at = std::find(cached_.begin(), cached_.end(), known);
      if (at == cached_.end()) return;
      cached_.erase(at);
      cached_.push_back(known);
      return;
    }
    const auto is_state = [](const BlockPtr& block) { return block->group < 0; };
    if (std::count_if(cached_.begin(), cached_.end(), is_state) >= config_.max_snapshots)
      Evict(std::find_if(cached_.begin(), cached_.end(), is_state));
    if (config_.capacity_bytes - live() < config_.state_bytes) return;
    const BlockPtr snapshot = Take(-1);
    snapshot->filed = NameOf(-1, scope, tokens, static_cast<int>(tokens.size()));
    filed_[*snapshot->filed] = snapshot;
    cached_.push_back(snapshot);
    live_ -= snapshot->bytes;
    ++snapshots_;
  }

  const TwinConfig config_;
  std::vector<Table> tables_;
  std::map<Name, BlockPtr> filed_;
  std::vector<BlockPtr> cached_;  // oldest first
  int64_t live_ = 0;
  int64_t evictions_ = 0;
  int64_t copies_ = 0;
  int64_t deduplicated_ = 0;
  int64_t snapshots_ = 0;
};

}  // namespace kvasir::testing
