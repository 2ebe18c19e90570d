// How one attention call is cut into tasks for the cores.
//
// A tile is a few query tokens of one sequence for one KV head. Tiles that are long beside a core's
// fair share (one decoding sequence, few KV heads) are split into ranges of chunks, whose partial
// results are merged afterwards in ascending order. Because chunks are fixed by position
// (attention_tile.h), splitting changes no result, so the plan may depend on the number of threads.
// Chunks that a window hides from all of a tile's tokens are not visited.
//
// Reused over calls, so that planning allocates nothing after the first steps. Not thread safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "runtime/ops/attention_rules.h"
#include "runtime/ops/attention_tile.h"
#include "runtime/ops/paged_attention.h"

namespace kvasir {

struct AttentionTask {
  int sequence = 0;  // index into the call's sequences
  int kv_head = 0;
  int first_token = 0;  // of the sequence's query rows
  int num_tokens = 0;
  int chunk_begin = 0;
  int chunk_end = 0;
  int split = -1;  // index into splits(), or -1: the task is the whole tile
};

// A tile whose chunks are spread over several tasks. Chunk first_chunk + c's partial is partial
// number first_partial + c.
struct AttentionSplit {
  int sequence = 0;
  int kv_head = 0;
  int first_token = 0;
  int num_tokens = 0;
  int first_chunk = 0;
  int num_chunks = 0;
  int64_t first_partial = 0;

  int64_t PartialOf(int chunk) const { return first_partial + chunk - first_chunk; }
};

class AttentionPlan {
 public:
  void Build(absl::Span<const AttentionSequence> sequences, int kv_heads, int query_group_size,
             const AttentionRules& rules, int max_tile_rows, int threads);

  // Longest first, so that the last tasks to be handed out are small ones.
  const std::vector<AttentionTask>& tasks() const { return tasks_; }
  const std::vector<AttentionSplit>& splits() const { return splits_; }
  int64_t num_partials() const { return num_partials_; }
  // Rows of the largest tile.
  int max_rows() const { return max_rows_; }

 private:
  std::vector<AttentionTask> tasks_;
  std::vector<AttentionSplit> splits_;
  int64_t num_partials_ = 0;
  int max_rows_ = 0;
};

}  // namespace kvasir
