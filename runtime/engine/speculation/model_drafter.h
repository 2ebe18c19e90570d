// ModelDrafter: guesses what a smaller model of the same vocabulary would say.
//
// It draws with the sequence's own sampling parameters and the very random numbers that the large
// model's draws will use, so at any temperature two models that agree on the distribution agree on
// the token. Penalties are left out: they need the counts of tokens that are not there yet.
//
// A DraftModel is one engine's: a forward pass and a KV pool of its own, small and without a prefix
// cache. The sequences of a step share its passes: the first takes in what they have not computed
// there, at most max_step_tokens together, of those with the least to do first; each further one
// computes one guess of each. A sequence with a long beginning has no idea until it has come
// through, some tokens each time it is asked, and so delays the others by one pass of the small
// model at most. One that finds the pool full gives its blocks back and begins anew.
#pragma once

#include <cstdint>
#include <memory>
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
  int32_t vocab_size = 0;            // of its logits
  int32_t target_vocab_size = 0;     // ids from here on, or from vocab_size on, are not proposed
  int32_t max_context_tokens = 0;    // of the draft model
  int32_t short_context_tokens = 0;  // of the draft model: ModelSpec's
  int32_t max_step_tokens = 0;       // of `forward`
};

class ModelDrafter : public Drafter {
 public:
  explicit ModelDrafter(const DraftModel& model);

  // The sequence's request outlives its state.
  std::unique_ptr<DraftState> NewState(const Sequence& sequence) override;
  bool Propose(absl::Span<DraftAsk> asks) override;
  bool is_free() const override { return false; }

 private:
  struct State;
  // What a call does for one of its asks.
  struct Run {
    DraftAsk* ask = nullptr;
    State* state = nullptr;
    int32_t max_tokens = 0;             // that fit the context
    absl::Span<const TokenId> missing;  // not computed yet; the next guess follows them
    SampleResult guess = {};
  };
  // Takes back what the state holds beside the history. No run where there is nothing to guess.
  void Begin(DraftAsk* ask, std::vector<Run>* runs) const;
  // One pass over what the runs miss, `max_tokens` together at most, and a guess for those that
  // miss no more. Leaves the runs that have another guess to make.
  void Pass(int32_t max_tokens, std::vector<Run>* runs);
  void Guess(Run* run, const float* logits, Sampler* sampler) const;

  const DraftModel model_;
  std::vector<std::unique_ptr<Sampler>> samplers_;  // one per compute thread
  std::vector<BatchSequence> batch_;
};

}  // namespace kvasir
