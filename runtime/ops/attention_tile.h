// One tile of attention: some query rows that share a KV head, against one chunk of cached
// positions.
//
// A chunk is kChunkTokens positions beginning at a multiple of it, whatever the block size, the
// batch or the number of threads. Each chunk gives every row (max, sum, mix) of its own, and chunks
// are merged in ascending order, so a row's result depends on its sequence only: decode, prefill,
// any chunking of the prompt and any mixture in the batch give the same bits.
//
// An AttentionTile owns the scratch of one thread. Not thread safe; one per thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "base/bf16.h"
#include "kvcache/kv_view.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/upcoming_lines.h"
#include "runtime/ops/attention_rules.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// Positions per chunk. Its packed K and V, scores and weights stay in the second cache level;
// shorter chunks would spend more on merging, longer ones would leave cores idle at short contexts.
inline constexpr int kChunkTokens = 256;

// In which arithmetic the two products of a tile run.
enum class TileArithmetic {
  kF32,   // everything in f32: the oracle, and every CPU without bf16 dot products
  kBf16,  // queries, K, weights and V in bf16, sums in f32; bf16 K and V only
  kInt8,  // queries and K in int8, weights in int16, V in int8, exact sums; int8 K and V only
};

// Narrow arithmetic only where nobody asked for f32: the products around are bf16 or int8, and K
// and V have no more than 8 significant bits (f16 has 11).
TileArithmetic ChooseTileArithmetic(ComputeType compute_type, const KvView& kv);

// Most query rows (tokens x query group) of a tile, unless one token's group alone is larger:
// enough to hide packing K and V, few enough that their scores stay in the second cache level.
int MaxTileRows(TileArithmetic arithmetic);

// The query rows of a tile: row r is token r / group and query head first_head + r % group.
struct TileQueries {
  MatrixView q;           // of the batch, [rows][num_query_heads * k_dim]
  int64_t first_row = 0;  // of q, of the tile's first token
  int num_tokens = 0;
  int first_position = 0;  // of the tile's first token
  int first_head = 0;
  int group = 1;  // query heads per KV head

  int num_rows() const { return num_tokens * group; }
  // One past the last position that the tile's last token attends to.
  int end_position() const { return first_position + num_tokens; }
};

// Rows [begin, end) of a tile.
struct TileRows {
  int begin = 0;
  int end = 0;
};

// Per-row results of chunks. Rows without any position in a chunk are left alone.
struct TilePartial {
  float* mix = nullptr;  // [num_rows][v_stride], sum of weights * V
  float* max = nullptr;  // [num_rows], base-2 units
  float* sum = nullptr;  // [num_rows]
};

class AttentionTile {
 public:
  // Room for tiles of up to max_rows rows. May be called again; contents are lost.
  void Prepare(TileArithmetic arithmetic, const KvView& kv, int max_rows);

  // Floats between rows of a mix: v_dim rounded up to whole column groups.
  int v_stride() const { return v_stride_; }

  // Takes the queries of the tile that the next Attend calls are about. Sinks are not the tile's
  // business: they join once, when all chunks are merged.
  void SetQueries(const TileQueries& queries, const AttentionRules& rules);

  // Attends to chunk `chunk` of the sequence whose block table is `blocks`, and writes the partials
  // of the rows that see any position there, which it returns; there must be one. With a window,
  // blocks before everybody's window are not touched, nor their ids looked at.
  TileRows Attend(absl::Span<const BlockId> blocks, int kv_head, int chunk, TilePartial out);

  // Merges rows [first_row, end_row) of the next chunk's `part` into `whole`. A sum of 0 means that
  // the row has attended to nothing: then its max and mix are not looked at.
  static void Merge(const TilePartial& part, int first_row, int end_row, int v_stride,
                    TilePartial whole);

  // Two partials' worth of scratch for the caller: the chunk's and the running one.
  TilePartial chunk_partial() { return {chunk_mix_.data(), chunk_max_.data(), chunk_sum_.data()}; }
  TilePartial total_partial() { return {total_mix_.data(), total_max_.data(), total_sum_.data()}; }

 private:
  // A run: consecutive slots of one block, all inside one panel of the chunk at hand.
  struct Run {
    BlockId block;
    int slot;    // of the first position in its block
    int offset;  // of the first position in its chunk
    int count;
  };

  void ResizeWords(size_t rows, size_t key_words);
  // Positions of a chunk that products of weights with V take, `count` of which are real.
  size_t PaddedPositions(int count) const;
  void QuantizeQuery(int row, const float* query);

  // What one Attend is about.
  struct Chunk {
    absl::Span<const BlockId> blocks;
    int kv_head = 0;
    int begin = 0;  // first position
    int skip = 0;   // positions at its start that nobody sees, in whole column groups
    int count = 0;  // one past the last of its positions that anyone sees
    TileRows rows;  // that see any
    // Where products of weights with V begin: at `skip`, or before it at the words that AMX takes
    // together, so that these are the same ones in every tile.
    int start = 0;

    size_t active() const { return static_cast<size_t>(rows.end - rows.begin); }
  };

  // What one row sees of a chunk: its positions [begin, end). `aligned` is begin rounded down to a
  // column group: where the row's softmax starts, whatever the tile, so that its sums are always
  // taken in the same order.
  struct Sight {
    int begin = 0;
    int end = 0;
    int aligned = 0;

    bool masked() const { return begin != aligned; }
    size_t count() const { return static_cast<size_t>(end - aligned); }
  };
  Sight SightOf(int row, int chunk_begin) const;
  // Whether a row's scores need more than a factor before the softmax: then ShapeScores makes them
  // base-2 scores, from the products of position `aligned` on, times `scale`, and -infinity before
  // sight.begin.
  bool NeedsShaping(const Sight& sight) const { return sight.masked() || rules_.reshapes_scores(); }
  void ShapeScores(int row, const Chunk& chunk, const Sight& sight, float scale,
                   float* scores) const;

  // attention_tile_f32.cc
  void AttendF32(const Chunk& chunk, TilePartial out);
  void PackKeysF32(const Run& run, int kv_head, const void* ahead);
  void PackValuesF32(const Run& run, int kv_head, int first_column, int width, const void* ahead);

  // attention_tile_dots.cc. T: bf16 or int8_t, which K and V are stored in.
  // The chunk's runs of K or of V, written to `out`, which has room for a chunk's column groups.
  template <typename T>
  absl::Span<const RowRun<T>> RowRuns(int kv_head, bool values, RowRun<T>* out) const;
  template <typename T, typename Sum>
  void ScoreChunk(const Chunk& chunk, Sum* scores);
  template <typename T, typename Sum>
  void MixChunk(const Chunk& chunk, Sum* mix);
  // attention_tile_amx.cc, where the two above are made on a CPU with AMX.
  template <typename T, typename Sum>
  void ScoreChunkAmx(const Chunk& chunk, Sum* scores);
  template <typename T, typename Sum>
  void MixChunkAmx(const Chunk& chunk, Sum* mix);
  // Packed values of positions [begin, end) of the chunk, by the weights of `rows` rows.
  void MixWords(size_t first_row, size_t rows, size_t begin, size_t end, float* mix,
                bool accumulate);
  void MixWords(size_t first_row, size_t rows, size_t begin, size_t end, int32_t* mix,
                bool accumulate);
  // The weights of int8 K and V as bytes; nothing to do for those of bf16.
  void SplitWeightRows(const Chunk& chunk, int32_t sum_type);
  void SplitWeightRows(const Chunk& chunk, float sum_type);
  void AttendBf16(const Chunk& chunk, TilePartial out);
  void AttendInt8(const Chunk& chunk, TilePartial out);
  void GatherScales(const Chunk& chunk);
  // Runs [begin, end), which are one panel of the chunk's keys, become key_words_.
  template <typename T>
  void PackKeyPanel(int kv_head, size_t begin, size_t end);
  // Makes upcoming_ the K and V of next_runs_.
  void ListUpcoming(int kv_head);

  // Positions [skip, count) of the chunk that begins at `begin`.
  void ListRuns(absl::Span<const BlockId> blocks, int begin, int skip, int count,
                std::vector<Run>* runs) const;
  // Calls body(begin, end, column) for each panel of the chunk's keys: its runs and the column at
  // which they begin.
  template <typename Body>
  void ForEachKeyPanel(const Body& body) const {
    for (size_t begin = 0, end; begin < runs_.size(); begin = end) {
      const size_t panel = runs_[begin].offset / kPanelColumns;
      for (end = begin + 1; end < runs_.size() && runs_[end].offset / kPanelColumns == panel;)
        ++end;
      body(begin, end, static_cast<size_t>(runs_[begin].offset));
    }
  }
  const uint8_t* KeyRows(const Run& run, int kv_head) const;
  const uint8_t* ValueRows(const Run& run, int kv_head) const;
  // Where to prefetch while reading run `index` of the chunk's stream: all K runs, all V runs, and
  // then the next chunk's K runs. Null at the end.
  const void* Ahead(int kv_head, size_t index) const;
  int TokenPosition(int row) const { return queries_.first_position + row / queries_.group; }

  TileArithmetic arithmetic_ = TileArithmetic::kF32;
  bool amx_ = false;
  KvView kv_;
  int v_stride_ = 0;
  int prefetch_runs_ = 1;  // how many runs ahead to prefetch
  TileQueries queries_;
  AttentionRules rules_;
  float scale_ = 0;  // softmax scale * log2 e

  std::vector<Run> runs_;       // of the chunk at hand
  std::vector<Run> next_runs_;  // of the next chunk, for prefetching
  UpcomingLines upcoming_;      // what is left to prefetch of them, where products do it

  // Packed K and V: one panel of kPanelColumns columns at a time, which stays in the first cache
  // level while every row passes over it. Keys: [k_dim or its words][kPanelColumns] for 64
  // positions; values: [kChunkTokens or its pairs][kPanelColumns] for 64 columns.
  // f32: queries [num_rows][k_dim].
  AlignedBuffer<float> query_rows_;
  AlignedBuffer<float> keys_;
  AlignedBuffer<float> values_;
  AlignedBuffer<float> scores_;  // [num_rows][kChunkTokens]; f32: weights too; int8: one row
  // bf16 and int8: queries [num_rows][key_words_per_row_].
  size_t key_words_per_row_ = 0;
  AlignedBuffer<uint32_t> query_words_;
  AlignedBuffer<uint32_t> key_words_;
  AlignedBuffer<uint32_t> value_words_;
  AlignedBuffer<uint32_t> weight_words_;  // [num_rows][kChunkTokens / 2]
  // AMX only: a few queries as columns [key_words_per_row_][16], and their mixes [16][v_stride];
  // int8: the weights' bytes [num_rows][kChunkTokens / 4].
  AlignedBuffer<uint32_t> query_columns_;
  AlignedBuffer<uint32_t> few_scores_;
  AlignedBuffer<uint32_t> few_mixes_;
  AlignedBuffer<uint32_t> high_weights_;
  AlignedBuffer<uint32_t> low_weights_;
  // int8 only.
  AlignedBuffer<float> query_scales_;   // [num_rows]
  AlignedBuffer<float> weight_steps_;   // [num_rows]
  AlignedBuffer<int32_t> dot_offsets_;  // [num_rows], by which products with keys are too large
  AlignedBuffer<float> key_scales_;     // [kChunkTokens]
  AlignedBuffer<float> value_scales_;   // [kChunkTokens]
  AlignedBuffer<int32_t> dots_;         // [num_rows][kChunkTokens]
  AlignedBuffer<int32_t> mix_sums_;     // [num_rows][v_stride]
  AlignedBuffer<float> chunk_mix_, chunk_max_, chunk_sum_;
  AlignedBuffer<float> total_mix_, total_max_, total_sum_;
};

}  // namespace kvasir
