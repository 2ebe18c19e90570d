// How large the pool gets: from an explicit size, or from what memory is left beside the
// weights. Pure arithmetic on figures the caller measured; the refusal prints the whole sum, since
// "does not fit" without figures cannot be acted on.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kvcache/kv_layout.h"

namespace kvasir {

struct KvBudgetRequest {
  int64_t kv_cache_bytes = 0;  // size of the pool; 0: whatever memory is left
  int64_t usable_memory_bytes =
      0;  // this process may use in all; 0: unknown (then kv_cache_bytes must be given)
  int64_t weight_bytes = 0;    // packed weights, and other models in this process
  int64_t headroom_bytes = 0;  // activations, tokenizer, streams, allocator
  int64_t min_tokens = 1;      // the pool must hold at least one sequence of this length ...
  int64_t step_tokens = 512;   // ... computed in steps of at most this many tokens
};

struct KvBudget {
  int num_blocks = 0;       // of KvLayout::block_bytes: one of each group
  int64_t pool_bytes = 0;   // num_blocks * block_bytes
  std::string explanation;  // one line with every summand, for the start-up log
};

// Bytes the bookkeeping of one block (of each group, for any may fill the pool) takes beside its
// K/V (token ids and digests of the prefix cache, reference count, list links, hash slot). Part of
// the sum, since it is several per cent for the smallest KV layouts.
int64_t KvBookkeepingBytesPerBlock(const KvLayout& layout);

// ResourceExhausted, with the sum, every summand and the remedy, when the weights, the headroom and
// the pool exceed the usable memory, or the pool could not hold min_tokens. InvalidArgument for
// negative figures.
absl::StatusOr<KvBudget> ComputeKvBudget(const KvLayout& layout, const KvBudgetRequest& request);

}  // namespace kvasir
