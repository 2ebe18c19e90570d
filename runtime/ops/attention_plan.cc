#include "runtime/ops/attention_plan.h"

#include <algorithm>

namespace kvasir {
namespace {

// Tasks per thread that a split aims at: enough that uneven ones even out, few enough that each
// still reads several chunks in a row.
constexpr int64_t kTasksPerThread = 4;

int ChunksUpTo(int end_position) { return (end_position + kChunkTokens - 1) / kChunkTokens; }

}  // namespace

void AttentionPlan::Build(absl::Span<const AttentionSequence> sequences, int kv_heads,
                          int query_group_size, const AttentionRules& rules, int max_tile_rows,
                          int threads) {
  tasks_.clear();
  splits_.clear();
  num_partials_ = 0;
  max_rows_ = 0;
  const int tile_tokens = std::max(1, max_tile_rows / query_group_size);

  int64_t total_chunks = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const AttentionSequence& sequence = sequences[s];
    for (int token = 0; token < sequence.num_rows; token += tile_tokens) {
      const int tokens = std::min(tile_tokens, sequence.num_rows - token);
      const int position = sequence.first_position + token;
      const int first_chunk = rules.FirstSeen(position) / kChunkTokens;
      const int end_chunk = ChunksUpTo(position + tokens);
      total_chunks += int64_t{end_chunk - first_chunk} * kv_heads;
      max_rows_ = std::max(max_rows_, tokens * query_group_size);
      for (int head = 0; head < kv_heads; ++head) {
        tasks_.push_back({static_cast<int>(s), head, token, tokens, first_chunk, end_chunk, -1});
      }
    }
  }

  if (threads > 1) {
    const int64_t share = std::max<int64_t>(1, total_chunks / (threads * kTasksPerThread));
    const size_t whole_tiles = tasks_.size();
    for (size_t i = 0; i < whole_tiles; ++i) {
      const AttentionTask tile = tasks_[i];
      const int chunks = tile.chunk_end - tile.chunk_begin;
      if (chunks <= 2 * share) continue;  // close enough to fair
      const int pieces = static_cast<int>((chunks + share - 1) / share);
      const int split = static_cast<int>(splits_.size());
      splits_.push_back({tile.sequence, tile.kv_head, tile.first_token, tile.num_tokens,
                         tile.chunk_begin, chunks, num_partials_});
      num_partials_ += chunks;
      for (int piece = 0; piece < pieces; ++piece) {
        AttentionTask task = tile;
        task.chunk_begin = tile.chunk_begin + static_cast<int>(int64_t{chunks} * piece / pieces);
        task.chunk_end =
            tile.chunk_begin + static_cast<int>(int64_t{chunks} * (piece + 1) / pieces);
        task.split = split;
        if (piece == 0) {
          tasks_[i] = task;
        } else {
          tasks_.push_back(task);
        }
      }
    }
  }
  std::sort(tasks_.begin(), tasks_.end(), [](const AttentionTask& a, const AttentionTask& b) {
    return int64_t{a.chunk_end - a.chunk_begin} * a.num_tokens >
           int64_t{b.chunk_end - b.chunk_begin} * b.num_tokens;
  });
}

}  // namespace kvasir
