// The forward pass of one model over a mixed batch: prefill chunks and decodes take one code path.
//
// A Decoder borrows a Model's weights and owns activations and scratch. One per engine; not thread
// safe (the engine thread calls it). It writes K/V of the new tokens into the pool and reads cached
// ones through the sequences' block tables; it never allocates blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kvcache/kv_arena.h"
#include "runtime/model/model.h"
#include "runtime/ops/sparse/attention_method.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

// Consecutive new tokens of one sequence, to be computed in this step.
struct BatchSequence {
  absl::Span<const TokenId> tokens;  // [num_new], >= 1
  int32_t first_position = 0;        // of tokens[0] = tokens whose K/V already stand in the pool
  // Block tables for first_position + num_new positions, the new ones writable; behind its window a
  // group has kNoBlock. [block groups of the layout][blocks]
  absl::Span<const std::vector<BlockId>> blocks;
  // Holds the recurrent state behind position first_position - 1, to be replaced by that behind the
  // last new one (KvArena::State); of any content when first_position is 0. kNoBlock: the model has
  // none.
  BlockId state_slot = kNoBlock;
  int32_t num_logits = 0;  // logits wanted for this many last tokens: 0, 1 or up to num_new
  // How tokens attend where it has begun; null: densely, like those before it.
  const ResolvedAttention* method = nullptr;
  // The request may grow beyond the context that the model was first made for: layers whose
  // rotation has a second form for that (RopeSpec::long_divisors) use it. The same for all steps of
  // a sequence, and for all whose K and V it shares.
  bool long_context = false;
  // Bytes of the pool that Forward reads for those tokens, in all layers, are added here, unless
  // null.
  int64_t* sparse_bytes_read = nullptr;
};

class Decoder {
 public:
  // Most new tokens in one Forward. `arena` must outlive the Decoder and have the layout of
  // `model`.
  Decoder(const Model* model, KvArena* arena, int max_batch_tokens);
  ~Decoder();

  // Computes the batch. Returns logits [sum of num_logits, vocab_size] f32 in batch order, valid
  // until the next call. Positions whose logits are not wanted leave the pass as soon as the last
  // layer that stores anything has stored it (early exit): nothing behind it could reach another
  // position.
  // Aborts on broken preconditions: more than max_batch_tokens, tokens outside the vocabulary,
  // positions beyond the model's context or beyond the block table.
  absl::Span<const float> Forward(absl::Span<const BatchSequence> batch);

  // Writes what is kept beside K and V (key_columns.h), in every layer that keeps it, for
  // `full_blocks`: the full group's blocks of one sequence from its first on, whose K and V came
  // from elsewhere than Forward. No-op if the arena's layout has no columns.
  void FillKeyColumns(absl::Span<const BlockId> full_blocks);

  // Packed bytes of weights that Forward has read: in each pass those of the products that it
  // needs, of experts the chosen ones. To be read by who calls Forward.
  int64_t weight_bytes_read() const;

  // Builds every primitive the step loop can need, so that the first requests do not pay for it.
  void Warm();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvasir
