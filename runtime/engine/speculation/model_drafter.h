// ModelDrafter: guesses what a smaller model of the same vocabulary would say.
//
// It draws with the sequence's own sampling parameters and the very random numbers that the large
// model's draws will use, so at any temperature two models that agree on the distribution agree on
// the token. Penalties are left out: they need the counts of tokens that are not there yet.
//
// A DraftModel is one engine's: a forward pass and a KV pool of its own, small and without a prefix
// cache. A drafter that finds the pool full drops its blocks and has no idea; it computes the
// sequence anew when there is room. Drafters borrow the DraftModel. The engine thread owns all.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/kv_cache_manager.h"
#include "runtime/engine/model_runner.h"
#include "runtime/engine/speculation/drafter.h"
#include "runtime/sampling/sampler.h"

namespace kvasir {

// Borrows what it is made from. The layout has no state group: drafts are taken back at each step.
struct DraftModel {
  ForwardPass* forward = nullptr;
  KvCacheManager* kv = nullptr;
  int32_t vocab_size = 0;         // of its logits
  int32_t target_vocab_size = 0;  // ids from here on, or from vocab_size on, are not proposed
  int32_t max_context_tokens = 0;
  int32_t max_step_tokens = 0;  // of `forward`
};

class ModelDrafter : public Drafter {
 public:
  // For completion `completion_index` of a request whose prompt has `prompt_tokens`. long_context:
  // BatchSequence's, by what the sequence may come to and the draft model's own short context.
  ModelDrafter(const DraftModel* model, const SamplingParams* sampling, int32_t completion_index,
               int32_t prompt_tokens, bool long_context);

  std::vector<TokenId> Propose(absl::Span<const TokenId> history, int32_t max_tokens) override;
  bool is_free() const override { return false; }

 private:
  // Logits behind the last of `tokens`, whose first table_.num_tokens() are computed already; empty
  // when the pool is full.
  absl::Span<const float> LogitsBehind(absl::Span<const TokenId> tokens);

  const DraftModel* const model_;
  const int32_t completion_index_;
  const int32_t prompt_tokens_;
  const bool long_context_;
  SamplingParams sampling_;  // the request's, without penalties
  Sampler sampler_;
  BlockTable table_;
  std::vector<TokenId> computed_;  // the tokens that table_ holds
};

}  // namespace kvasir
