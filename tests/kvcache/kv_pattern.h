// Fills slots of the pool with bytes that say whose they are, and checks them: the stand-in for a
// model in tests of the pool. What position p of a sequence holds depends on scope and tokens [0,
// p], as real K and V do. Header only.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/check.h"
#include "kvcache/block_table.h"
#include "kvcache/kv_arena.h"

namespace kvasir::testing {

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = (a ^ (b + 0x9E3779B97F4A7C15u + (a << 6) + (a >> 2))) * 0xBF58476D1CE4E5B9u;
  x ^= x >> 29;
  x *= 0x94D049BB133111EBu;
  return x ^ (x >> 32);
}

class KvPattern {
 public:
  explicit KvPattern(const KvArena* arena) : arena_(*arena) {
    const KvLayout& layout = arena->layout();
    block_tokens_ = layout.block_tokens();
    for (int layer = 0; layer < layout.num_layers(); ++layer) {
      if (layout.is_owner(layer)) views_.push_back({layout.group_of(layer), arena->View(layer)});
      if (layout.kind(layer) == KvLayerKind::kState) state_layers_.push_back(layer);
    }
  }

  // What distinguishes position p: a digest of scope and tokens [0, p].
  static uint64_t Seed(uint64_t scope) { return Mix(scope, 0x5EED); }
  static uint64_t Next(uint64_t history, int32_t token) { return Mix(history, token); }

  void Write(const BlockTable& table, int position, uint64_t history) const {
    ForEachRow(table, position, history, [](uint8_t* row, size_t size_bytes, uint64_t word) {
      for (size_t i = 0; i < size_bytes; i += 4) {
        const uint32_t part = static_cast<uint32_t>(word >> (i % 8 * 8)) + static_cast<uint32_t>(i);
        std::memcpy(row + i, &part, 4);
      }
    });
  }

  bool Matches(const BlockTable& table, int position, uint64_t history) const {
    bool equal = true;
    ForEachRow(table, position, history, [&](const uint8_t* row, size_t size_bytes, uint64_t word) {
      for (size_t i = 0; i < size_bytes; i += 4) {
        const uint32_t part = static_cast<uint32_t>(word >> (i % 8 * 8)) + static_cast<uint32_t>(i);
        equal = equal && std::memcmp(row + i, &part, 4) == 0;
      }
    });
    return equal;
  }

  // All of positions [begin, tokens.size()), and the state behind them, made from the one before.
  void WriteAll(const BlockTable& table, uint64_t scope, absl::Span<const int32_t> tokens,
                int begin) const {
    for (const int layer : state_layers_) {
      const auto state = arena_.State(table.state_slot(), layer);
      uint64_t word = Seed(scope);
      if (begin > 0) std::memcpy(&word, state.data(), sizeof(word));
      for (int p = begin; p < static_cast<int>(tokens.size()); ++p) word = Next(word, tokens[p]);
      for (size_t i = 0; i < state.size(); i += sizeof(word))
        std::memcpy(state.data() + i, &word, sizeof(word));
    }
    uint64_t history = Seed(scope);
    for (int p = 0; p < static_cast<int>(tokens.size()); ++p) {
      history = Next(history, tokens[p]);
      if (p >= begin) Write(table, p, history);
    }
  }

  // The state behind the last computed position. State layers keep a multiple of 8 bytes.
  bool StateMatches(const BlockTable& table, uint64_t history) const {
    bool equal = true;
    for (const int layer : state_layers_) {
      const auto state = arena_.State(table.state_slot(), layer);
      for (size_t i = 0; i < state.size(); i += sizeof(history))
        equal = equal && std::memcmp(state.data() + i, &history, sizeof(history)) == 0;
    }
    return equal;
  }

  // All computed positions, and the state.
  bool MatchesAll(const BlockTable& table, uint64_t scope, absl::Span<const int32_t> tokens) const {
    uint64_t history = Seed(scope);
    if (table.num_tokens() > 0) {
      for (int p = 0; p < table.num_tokens(); ++p) history = Next(history, tokens[p]);
      if (!StateMatches(table, history)) return false;
    }
    history = Seed(scope);
    for (int p = 0; p < table.num_tokens(); ++p) {
      history = Next(history, tokens[p]);
      if (!Matches(table, p, history)) return false;
    }
    return true;
  }

 private:
  // visit(row, size_bytes, word) for the K row, the V row and the scales of every owner layer and
  // head, but for what the layer's window gave up. Rows are a multiple of 4 bytes long.
  template <typename Visit>
  void ForEachRow(const BlockTable& table, int position, uint64_t history, Visit visit) const {
    const int slot = position % block_tokens_;
    uint64_t word = history;
    for (const auto& [group, view] : views_) {
      const BlockId block = table.blocks(group)[position / block_tokens_];
      if (block == kNoBlock) {
        KVASIR_CHECK(position / block_tokens_ <
                     arena_.layout().FirstNeededBlock(group, table.num_tokens()));
        word += view.slice.kv_heads * 0x9E3779B97F4A7C15u;
        continue;
      }
      const size_t element = KvElementBytes(view.element_type);
      for (int head = 0; head < view.slice.kv_heads; ++head) {
        word += 0x9E3779B97F4A7C15u;
        visit(view.K(block, head) + slot * view.k_dim * element, view.k_dim * element, word);
        const bool latent = view.slice.latent;
        if (!latent)
          visit(view.V(block, head) + slot * view.v_dim * element, view.v_dim * element, ~word);
        if (view.has_unrotated_k())
          visit(view.UnrotatedK(block, head) + slot * view.k_dim * element, view.k_dim * element,
                word ^ 0x33);
        if (view.element_type != KvElementType::kInt8) continue;
        visit(reinterpret_cast<uint8_t*>(view.KScale(block, head) + slot), 4, word ^ 0x55);
        if (!latent)
          visit(reinterpret_cast<uint8_t*>(view.VScale(block, head) + slot), 4, word ^ 0xAA);
        if (view.has_unrotated_k())
          visit(reinterpret_cast<uint8_t*>(view.UnrotatedKScale(block, head) + slot), 4,
                word ^ 0xCC);
      }
    }
  }

  const KvArena& arena_;
  std::vector<std::pair<int, KvView>> views_;  // of owner layers: group, view
  std::vector<int> state_layers_;
  int block_tokens_ = 0;
};

}  // namespace kvasir::testing
