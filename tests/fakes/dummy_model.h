// A model whose every output depends on every cached position: the K slot of position p holds token
// p's id (in each owner layer), and the logits at position p point at a hash of the ids read back
// from slots 0..p. A block lost, shared wrongly, overwritten or left stale changes the output, so
// policy tests check contents with it and not only counts.
#pragma once

#include <cstring>
#include <vector>

#include "kvcache/kv_cache_manager.h"
#include "runtime/engine/model_runner.h"

namespace kvasir::testing {

class DummyModel : public ForwardPass {
 public:
  DummyModel(KvCacheManager* kv, int32_t vocab_size) : kv_(kv), vocab_size_(vocab_size) {}

  // The token that follows `tokens`. Ids 0 to 3 (special) never come out by themselves.
  static TokenId Next(absl::Span<const TokenId> tokens, int32_t vocab_size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (TokenId token : tokens) hash = (hash ^ static_cast<uint64_t>(token)) * 0x100000001b3u;
    return 4 + static_cast<TokenId>((hash >> 20) % (vocab_size - 4));
  }

  // Prompt and `count` greedy tokens after it.
  static std::vector<TokenId> Greedy(std::vector<TokenId> tokens, int count, int32_t vocab_size) {
    for (int i = 0; i < count; ++i) tokens.push_back(Next(tokens, vocab_size));
    return tokens;
  }

  absl::Span<const float> Forward(absl::Span<const BatchSequence> batch) override {
    logits_.clear();
    ++steps;
    for (const BatchSequence& sequence : batch) {
      const int num_new = static_cast<int>(sequence.tokens.size());
      tokens_computed += num_new;
      for (int i = 0; i < num_new; ++i)
        Write(sequence, sequence.first_position + i, sequence.tokens[i]);
      for (int i = num_new - sequence.num_logits; i < num_new; ++i) {
        const TokenId next = Next(Read(sequence, sequence.first_position + i + 1), vocab_size_);
        logits_.resize(logits_.size() + vocab_size_, 0.0f);
        logits_[logits_.size() - vocab_size_ + next] = 10.0f;
      }
    }
    return logits_;
  }

  void FillKeyColumns(absl::Span<const BlockId>) override {}  // attends densely

  int64_t steps = 0;
  int64_t tokens_computed = 0;

 private:
  uint8_t* Slot(const BatchSequence& sequence, int layer, int position) {
    const KvView view = kv_->arena()->View(layer);
    const BlockId block = sequence.blocks[position / view.block_tokens];
    return view.K(block, 0) + static_cast<size_t>(position % view.block_tokens) * view.k_dim *
                                  KvElementBytes(view.element_type);
  }

  void Write(const BatchSequence& sequence, int position, TokenId token) {
    for (int layer = 0; layer < kv_->layout().num_layers(); ++layer) {
      if (kv_->layout().is_owner(layer))
        std::memcpy(Slot(sequence, layer, position), &token, sizeof(token));
    }
  }

  // Positions are read through different layers in turn, borrowers among them.
  std::vector<TokenId> Read(const BatchSequence& sequence, int count) {
    std::vector<TokenId> tokens(count);
    for (int p = 0; p < count; ++p) {
      std::memcpy(&tokens[p], Slot(sequence, p % kv_->layout().num_layers(), p), sizeof(TokenId));
    }
    return tokens;
  }

  KvCacheManager* const kv_;
  const int32_t vocab_size_;
  std::vector<float> logits_;
};

}  // namespace kvasir::testing
