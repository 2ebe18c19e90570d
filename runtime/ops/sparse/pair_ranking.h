// Ranks positions for one query group by the sum of its heads' softmax weights, with bf16 dot
// products: what the f32 ranking does, for groups that need nobody's mass (alpha), for which these
// weights would be too coarse.
//
// Stages, in this order; those by chunk in any order of chunks, and in parallel:
//   Begin            queries as pairs, a reference for each head's weights
//   Rank(chunk)      weights of a range of positions, and their sums
//   Merge            the sums of the whole rows
//   Combine(chunk)   one score per position
//
// Weights are relative to references that are found beforehand, so that one pass over the columns
// does all.
//
// Owns its scratch, reused over items. Chunks of one stage may run in different threads at once;
// stages may not.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/ops/sparse/chosen_columns.h"

namespace kvasir {

class PairRanking {
 public:
  // Whether the columns' type allows it. Also needs HasBf16Products().
  static bool Suits(const KvView& kv);

  // queries: [heads][rank] of base-2 logits over the chosen dimensions. Ranks positions [0,
  // positions).
  void Begin(const ChosenColumns& columns, absl::Span<const float> queries, int positions);
  int num_chunks() const { return num_chunks_; }
  void Rank(int chunk);
  // False where a logit lies so far above its reference that weights overflow: nothing is ranked
  // then.
  bool Merge();
  // Writes scores[position] for the positions of a chunk, and up to a multiple of 16: for each head
  // its softmax's share.
  void Combine(int chunk, float* scores) const;

 private:
  // Positions [begin, end) of a chunk.
  int ChunkBegin(int chunk) const { return chunk * chunk_tokens_; }
  int ChunkEnd(int chunk) const;
  // Of the tile that begins at a position.
  uint32_t* Weights(int begin) { return weights_.data() + static_cast<size_t>(begin) * rows_ / 2; }
  const uint32_t* Weights(int begin) const {
    return weights_.data() + static_cast<size_t>(begin) * rows_ / 2;
  }
  // Of a tile's positions [begin, end): their weights, added to thread scratch's sums; ...
  void Weigh(int begin, int end);
  // ... and the chosen columns as pairs, into thread scratch.
  void Pack(int begin, int end) const;
  // The same from K rows, of positions in one block.
  void PackRows(int begin, int end, uint32_t* out) const;

  ChosenColumns columns_;
  int positions_ = 0;
  int heads_ = 0;
  int rows_ = 0;             // heads_ made even
  int tile_tokens_ = 0;      // weighed in one go
  bool reads_rows_ = false;  // bf16 columns as they stand; tiles may then begin inside of blocks
  int chunk_tokens_ = 0;
  int num_chunks_ = 0;
  AlignedBuffer<uint32_t> queries_;  // [rows][(rank + 1) / 2], pairs of dimensions
  std::vector<float> references_;    // [rows]
  // [tile][rows / 2][tile_tokens], pairs of heads: one stream to write and to read back.
  AlignedBuffer<uint32_t> weights_;
  AlignedBuffer<float> chunk_sums_;  // [num_chunks][heads]
  std::vector<uint32_t> factors_;    // [rows / 2]: 1 / sum, pairs of heads
};

}  // namespace kvasir
