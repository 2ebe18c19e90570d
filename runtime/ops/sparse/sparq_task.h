// The stages of SparQ attention for one item: one query row and one KV head with its query group.
//
//   Begin                    which dimensions, the temperature
//   Rank(chunk)              approximate scores of a range of positions       any order, in
//   parallel Merge                    softmax statistics of the chunks Combine(chunk)           one
//   score per position for the whole group       any order, in parallel Select the picks and alpha
//   Attend(chunk)            exact attention over a range of picks            any order, in
//   parallel Finish                   merge, mean value
//
// Chunks are cut by position and by pick number, never by the number of threads, and merged in
// ascending order, so that running them in one thread or in many gives the same bits.
//
// Owns its scratch, reused over items. Chunks of one stage may run in different threads at once;
// stages may not.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "kvcache/kv_view.h"
#include "runtime/ops/sparse/chosen_columns.h"
#include "runtime/ops/sparse/pair_ranking.h"
#include "runtime/ops/sparse/pick_attention.h"
#include "runtime/ops/sparse/sparse_item.h"

namespace kvasir {

class SparqTask {
 public:
  void Begin(const SparseItem& item, const KvView& kv);
  int num_rank_chunks() const { return num_rank_chunks_; }
  void Rank(int chunk);
  void Merge();
  void Combine(int chunk);
  void Select();
  int num_attend_chunks() const { return attention_.num_chunks(); }
  void Attend(int chunk) { attention_.Attend(chunk); }
  void Finish();

  // [num picks], ascending; after Select.
  absl::Span<const int32_t> picks() const {
    return {picks_.data(), static_cast<size_t>(num_picks_)};
  }

 private:
  bool grows() const { return item_.params.least_mass > 0; }
  bool needs_mass() const { return item_.params.mean_value || grows(); }
  bool ranks_by_weights() const {
    return item_.group > 1 && item_.params.selection == SparseSelection::kSoftmaxSum;
  }
  float* ScoreRow(int row) { return scores_.data() + static_cast<size_t>(row) * score_stride_; }
  const float* ScoreRow(int row) const {
    return scores_.data() + static_cast<size_t>(row) * score_stride_;
  }
  // Positions [begin, end) of a chunk.
  int RankBegin(int chunk) const { return chunk * rank_chunk_tokens_; }
  int RankEnd(int chunk) const;
  void TakeGiven();
  void BeginRanking();
  void ChooseDims();
  void ProjectQueries();
  template <class T>
  void RankColumns(int begin, int end);
  void RankTail(int begin, int end);
  // The share of head h's mass that lies on a position.
  float MassOf(int h, int position) const;
  void SumAlpha();
  // Again and whole, where pairs_ could not.
  void RankWithoutPairs();
  // How many of `candidates`, best first, bring the mass of all picks to least_mass; keeps those,
  // ascending.
  int LeastForMass(int candidates);
  void ReportPicks();
  void AddMeanValue();

  SparseItem item_;
  KvView kv_;
  int num_rank_chunks_ = 0;
  int rank_chunk_tokens_ = 0;
  int num_rows_ = 0;   // rows of scores_ that Rank writes
  int rank_row_ = 0;   // the row that positions are selected by
  int stat_rows_ = 0;  // of num_rows_, the first ones, which need softmax statistics
  int num_picks_ = 0;
  size_t score_stride_ = 0;
  bool by_pairs_ = false;  // pairs_ ranks and writes the combined row

  std::vector<int32_t> dims_;      // [rank], ascending
  std::vector<float> magnitudes_;  // [k_dim]
  ChosenColumns columns_;          // of dims_
  AlignedBuffer<float> queries_;   // [num_rows][rank], divided by tau, base-2 units
  // [num_rows (+ 1: combined)][score_stride]: logits, or with ranks_by_weights weights relative to
  // their chunk's max. With by_pairs_ the combined row alone.
  AlignedBuffer<float> scores_;
  PairRanking pairs_;
  // [num_rank_chunks][stat_rows]: chunks of other threads should not write to the same cache lines.
  AlignedBuffer<float> chunk_max_, chunk_sum_;
  AlignedBuffer<float> chunk_factors_;  // [stat_rows][num_rank_chunks]: of chunk-relative weights,
                                        // to shares of a row
  std::vector<float> row_max_, row_sum_;  // [stat_rows]
  std::vector<float> alpha_;              // [group]
  AlignedBuffer<uint32_t> select_scratch_;
  AlignedBuffer<int32_t> picks_;
  std::vector<int32_t> best_first_;  // candidates of growing picks
  PickAttention attention_;
};

}  // namespace kvasir
