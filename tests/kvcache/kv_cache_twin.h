// The naive twin of KvCacheManager: the same policy written the slow and obvious way. Prefixes are
// looked up by their full token lists in a std::map, references are counted by looking into every
// table, the LRU list is a vector. Blocks have no number and no content. Header only, for the
// property test.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace kvasir::testing {

class KvCacheTwin {
 public:
  using Tokens = std::vector<int32_t>;
  using Prefix =
      std::pair<uint64_t, Tokens>;  // scope, tokens from position 0 to the end of the block

  struct Block {
    std::optional<Prefix> filed;
  };
  using BlockPtr = std::shared_ptr<Block>;

  struct Table {
    std::vector<BlockPtr> blocks;
    int num_tokens = 0;
  };

  KvCacheTwin(int capacity, int block_tokens, int num_tables)
      : capacity_(capacity), block_tokens_(block_tokens), tables_(num_tables) {}

  const Table& table(int t) const { return tables_[t]; }
  int num_tables() const { return static_cast<int>(tables_.size()); }

  int References(const BlockPtr& block) const {
    int references = 0;
    for (const Table& table : tables_) {
      references += std::count(table.blocks.begin(), table.blocks.end(), block);
    }
    return references;
  }

  int live() const { return live_; }
  int cached() const { return static_cast<int>(cached_.size()); }
  int free() const { return capacity_ - live() - cached(); }
  int64_t evictions() const { return evictions_; }
  int64_t copies() const { return copies_; }
  int64_t deduplicated() const { return deduplicated_; }

  // Blocks held by at least one table, found by looking.
  int CountLive() const {
    std::vector<const Block*> seen;
    for (const Table& table : tables_) {
      for (const auto& block : table.blocks) seen.push_back(block.get());
    }
    std::sort(seen.begin(), seen.end());
    return static_cast<int>(std::unique(seen.begin(), seen.end()) - seen.begin());
  }

  int Peek(uint64_t scope, const Tokens& tokens, int max_tokens) const {
    int end = 0;
    const int limit = std::min<int>(max_tokens, tokens.size());
    while (end + block_tokens_ <= limit &&
           filed_.count(PrefixOf(scope, tokens, end + block_tokens_))) {
      end += block_tokens_;
    }
    return end;
  }

  int Attach(int t, uint64_t scope, const Tokens& tokens, int max_tokens) {
    const int hit = Peek(scope, tokens, max_tokens);
    for (int end = block_tokens_; end <= hit; end += block_tokens_) {
      Hold(t, filed_.at(PrefixOf(scope, tokens, end)));
    }
    tables_[t].num_tokens = hit;
    return hit;
  }

  int Needed(int t, int end) const {
    const Table& table = tables_[t];
    if (end <= table.num_tokens) return 0;
    const int more = std::max(0, BlocksFor(end) - static_cast<int>(table.blocks.size()));
    return more +
           (table.num_tokens % block_tokens_ != 0 && References(LastFilled(table)) > 1 ? 1 : 0);
  }

  bool Reserve(int t, int end) {
    Table& table = tables_[t];
    if (end <= table.num_tokens) return true;
    if (Needed(t, end) > free() + cached()) return false;
    if (table.num_tokens % block_tokens_ != 0) {
      BlockPtr& last = LastFilled(table);
      if (References(last) > 1) {
        Evict();
        ++live_;
        ++copies_;
        last = std::make_shared<Block>();  // the others keep the old one live
      } else if (last->filed) {
        filed_.erase(*last->filed);
        last->filed.reset();
      }
    }
    while (static_cast<int>(table.blocks.size()) < BlocksFor(end)) {
      Evict();
      ++live_;
      table.blocks.push_back(std::make_shared<Block>());
    }
    return true;
  }

  void Commit(int t, uint64_t scope, const Tokens& tokens) {
    Table& table = tables_[t];
    const int first = table.num_tokens / block_tokens_;
    if (table.num_tokens == static_cast<int>(tokens.size())) return;
    table.num_tokens = static_cast<int>(tokens.size());
    for (int i = first; (i + 1) * block_tokens_ <= table.num_tokens; ++i) {
      const Prefix prefix = PrefixOf(scope, tokens, (i + 1) * block_tokens_);
      const auto [it, inserted] = filed_.try_emplace(prefix, table.blocks[i]);
      if (inserted) {
        table.blocks[i]->filed = prefix;
        continue;
      }
      const BlockPtr found = it->second;
      if (References(found) == 0) {
        cached_.erase(std::find(cached_.begin(), cached_.end(), found));
        ++live_;
      }
      table.blocks[i] = found;  // ours was never filed: it is free now
      --live_;
      ++deduplicated_;
    }
  }

  void Fork(int from, int to) {
    for (int i = 0; i < BlocksFor(tables_[from].num_tokens); ++i) Hold(to, tables_[from].blocks[i]);
    tables_[to].num_tokens = tables_[from].num_tokens;
  }

  void Truncate(int t, int num_tokens) {
    Table& table = tables_[t];
    while (static_cast<int>(table.blocks.size()) > BlocksFor(num_tokens)) {
      const BlockPtr block = table.blocks.back();
      table.blocks.pop_back();
      if (References(block) > 0) continue;
      --live_;
      if (block->filed) cached_.push_back(block);
    }
    table.num_tokens = num_tokens;
  }

  void Clear(int t) { Truncate(t, 0); }

  void Swap(int a, int b) { std::swap(tables_[a], tables_[b]); }

  void DropCache() {
    for (const BlockPtr& block : cached_) filed_.erase(*block->filed);
    cached_.clear();
  }

 private:
  int BlocksFor(int tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }

  static Prefix PrefixOf(uint64_t scope, const Tokens& tokens, int end) {
    return {scope, Tokens(tokens.begin(), tokens.begin() + end)};
  }

  BlockPtr& LastFilled(Table& table) const {
    return table.blocks[table.num_tokens / block_tokens_];
  }
  const BlockPtr& LastFilled(const Table& table) const {
    return table.blocks[table.num_tokens / block_tokens_];
  }

  void Hold(int t, const BlockPtr& block) {
    const auto it = std::find(cached_.begin(), cached_.end(), block);
    if (it != cached_.end()) {
      cached_.erase(it);
      ++live_;
    }
    tables_[t].blocks.push_back(block);
  }

  // Makes a block free if none is.
  void Evict() {
    if (free() > 0) return;
    filed_.erase(*cached_.front()->filed);
    cached_.erase(cached_.begin());
    ++evictions_;
  }

  const int capacity_;
  const int block_tokens_;
  std::vector<Table> tables_;
  std::map<Prefix, BlockPtr> filed_;
  std::vector<BlockPtr> cached_;  // oldest first
  int live_ = 0;
  int64_t evictions_ = 0;
  int64_t copies_ = 0;
  int64_t deduplicated_ = 0;
};

}  // namespace kvasir::testing
