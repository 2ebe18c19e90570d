// Causal softmax attention over the paged pool for a mixed batch: prefill chunks and decodes in one
// call.
//
// For query row t at position p of its sequence: out = softmax(q . K[0..p] * scale) . V[0..p], f32
// statistics, and what else AttentionRules say. Work is split over sequences, KV heads, query tiles
// and ranges of blocks, so that one long sequence with one KV head still uses every core; each K/V
// row is read once per KV head for the whole query group. Not thread safe: owns scratch. Never
// reads a slot past a sequence's last position (unused pool memory may hold NaN), nor a block
// behind the window of a sequence's first query row (its table entry may be anything).
#pragma once

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "kvcache/kv_view.h"
#include "runtime/ops/attention_rules.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// Consecutive query rows of one sequence.
struct AttentionSequence {
  int32_t row_begin = 0;             // first row of this sequence in q and out
  int32_t num_rows = 0;              // query rows, >= 1
  int32_t first_position = 0;        // of row_begin; row i is at first_position + i
  absl::Span<const BlockId> blocks;  // block table covering first_position + num_rows positions
};

// Bytes of the pool that these rows read, each for itself, of what the rules let them see.
int64_t DenseBytesRead(const AttentionRules& rules, const AttentionSequence& sequence,
                       const KvView& kv);

class PagedAttention {
 public:
  PagedAttention();
  ~PagedAttention();

  // out: resized to [rows][num_heads * v_dim]. queries.num_heads % kv.slice.kv_heads == 0; query
  // head h reads KV head h / query_group_size.
  void Run(const AttentionQueries& queries, const AttentionRules& rules,
           absl::Span<const AttentionSequence> sequences, const KvView& kv, MatmulInput* out);

 private:
  struct Scratch;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace kvasir
