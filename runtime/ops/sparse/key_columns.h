// Keeps the second copy of K, dimension by dimension, and the running sums of V (kv_layout.h).
// Both are made when a block fills: whole lines are written then, where a token at a time would
// touch one line per dimension. The positions behind the last full block have none; their K
// and V rows are read as they are.
#pragma once

#include "absl/types/span.h"
#include "kvcache/kv_view.h"

namespace kvasir {

// Blocks of one sequence that a step fills, in order.
struct FilledBlocks {
  absl::Span<const BlockId> blocks;  // the sequence's block table
  int first_block = 0;               // index into it
  int num_blocks = 0;                // >= 1
};

// Writes columns and prefix sums of every listed block from its K and V, which stand in the pool;
// blocks before first_block have theirs already. kv.k_columns must not be kOff. Parallel over
// blocks and KV heads.
void FillKeyColumns(absl::Span<const FilledBlocks> filled, const KvView& kv);

// sum[0:v_dim] += the first `count` V rows of the block, in ascending order.
void AddValueRows(const KvView& kv, BlockId block, int kv_head, int count, float* sum);
// ... and one row of it.
void AddValueRow(const KvView& kv, BlockId block, int kv_head, int slot, float* sum);

}  // namespace kvasir
