// A model whose every output depends on every cached position that a layer may see: the K slot of
// position p holds token p's id (in each owner layer), a state layer's first word a hash of all
// tokens so far, and the logits at position p point at a hash of what is read back: for each block
// group the ids of the positions it still sees, then the state. A sequence of a long context writes
// other words for the same ids. A block lost, shared wrongly, overwritten or left stale changes the
// output, so policy tests check contents with it and not only counts.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "kvcache/kv_cache_manager.h"
#include "runtime/engine/model_runner.h"

namespace kvasir::testing {

class DummyModel : public ForwardPass {
 public:
  DummyModel(KvCacheManager* kv, int32_t vocab_size) : kv_(kv), vocab_size_(vocab_size) {}

  // The token that follows `tokens`. Ids 0 to 3 (special) never come out by themselves.
  static TokenId Next(const KvLayout& layout, absl::Span<const TokenId> tokens, int32_t vocab_size,
                      bool long_context = false) {
    uint64_t hash = kBasis;
    for (int group = 0; group < layout.num_block_groups(); ++group) {
      const int window = layout.group(group).window;
      const size_t seen = window == 0 ? tokens.size() : std::min<size_t>(tokens.size(), window);
      for (const TokenId token : tokens.last(seen)) hash = Mix(hash, Word(token, long_context));
    }
    if (layout.has_state()) {
      uint64_t state = kBasis;
      for (const TokenId token : tokens) state = Mix(state, Word(token, long_context));
      hash = Mix(hash, state);
    }
    return Pick(hash, vocab_size);
  }

  // Prompt and `count` greedy tokens after it.
  static std::vector<TokenId> Greedy(const KvLayout& layout, std::vector<TokenId> tokens, int count,
                                     int32_t vocab_size, bool long_context = false) {
    for (int i = 0; i < count; ++i)
      tokens.push_back(Next(layout, tokens, vocab_size, long_context));
    return tokens;
  }

  absl::Span<const float> Forward(absl::Span<const BatchSequence> batch) override {
    logits_.clear();
    ++steps;
    for (const BatchSequence& sequence : batch) {
      const int num_new = static_cast<int>(sequence.tokens.size());
      tokens_computed += num_new;
      for (int i = 0; i < num_new; ++i) {
        const int position = sequence.first_position + i;
        const TokenId word = Word(sequence.tokens[i], sequence.long_context);
        Write(sequence, position, word);
        const uint64_t state = Advance(sequence, position, word);
        if (i < num_new - sequence.num_logits) continue;
        const TokenId next = Pick(Read(sequence, position, state), vocab_size_);
        logits_.resize(logits_.size() + vocab_size_, 0.0f);
        logits_[logits_.size() - vocab_size_ + next] = 10.0f;
      }
    }
    return logits_;
  }

  void FillKeyColumns(absl::Span<const BlockId>) override {}  // attends densely
  int64_t weight_bytes_read() const override { return 0; }

  int64_t steps = 0;
  int64_t tokens_computed = 0;

 private:
  static constexpr uint64_t kBasis = 0xcbf29ce484222325u;
  static uint64_t Mix(uint64_t hash, uint64_t word) { return (hash ^ word) * 0x100000001b3u; }
  // What stands in the cache for a token.
  static TokenId Word(TokenId token, bool long_context) {
    return long_context ? token ^ 0x40000000 : token;
  }
  static TokenId Pick(uint64_t hash, int32_t vocab_size) {
    return 4 + static_cast<TokenId>((hash >> 20) % (vocab_size - 4));
  }

  uint8_t* Slot(const BatchSequence& sequence, int layer, int position) {
    const KvView view = kv_->arena()->View(layer);
    const int group = kv_->layout().group_of(layer);
    const BlockId block = sequence.blocks[group][position / view.block_tokens];
    KVASIR_CHECK(block != kNoBlock);
    return view.K(block, 0) + static_cast<size_t>(position % view.block_tokens) * view.k_dim *
                                  KvElementBytes(view.element_type);
  }

  void Write(const BatchSequence& sequence, int position, TokenId token) {
    for (int layer = 0; layer < kv_->layout().num_layers(); ++layer) {
      if (kv_->layout().is_owner(layer))
        std::memcpy(Slot(sequence, layer, position), &token, sizeof(token));
    }
  }

  // Every state layer's state behind `position`; returns one of them, in turn.
  uint64_t Advance(const BatchSequence& sequence, int position, TokenId token) {
    uint64_t result = 0;
    for (int layer = 0; layer < kv_->layout().num_layers(); ++layer) {
      if (kv_->layout().kind(layer) != KvLayerKind::kState) continue;
      uint8_t* const memory = kv_->arena()->State(sequence.state_slot, layer).data();
      uint64_t state = kBasis;
      if (position > 0) std::memcpy(&state, memory, sizeof(state));
      state = Mix(state, token);
      std::memcpy(memory, &state, sizeof(state));
      if (result == 0 || position % 2 == 0) result = state;
    }
    return result;
  }

  // Positions are read through different layers of a group in turn, borrowers among them.
  uint64_t Read(const BatchSequence& sequence, int position, uint64_t state) {
    const KvLayout& layout = kv_->layout();
    uint64_t hash = kBasis;
    for (int index = 0; index < layout.num_block_groups(); ++index) {
      const KvGroup& group = layout.group(index);
      const int first = group.window == 0 ? 0 : std::max(0, position - group.window + 1);
      for (int p = first; p <= position; ++p) {
        TokenId token;
        std::memcpy(&token, Slot(sequence, group.layers[p % group.layers.size()], p),
                    sizeof(token));
        hash = Mix(hash, token);
      }
    }
    return layout.has_state() ? Mix(hash, state) : hash;
  }

  KvCacheManager* const kv_;
  const int32_t vocab_size_;
  std::vector<float> logits_;
};

}  // namespace kvasir::testing
