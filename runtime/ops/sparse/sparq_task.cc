#include "runtime/ops/sparse/sparq_task.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/bf16.h"
#include "base/check.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/pick_kernels.h"
#include "runtime/ops/sparse/key_columns.h"

namespace kvasir {
namespace {

// Positions ranked in one go: a row of their scores stays in the first cache level between its
// passes.
constexpr int kRankChunkTokens = 4096;

// Columns ahead are asked for in pieces of so many positions.
constexpr int kAskTokens = 64;

constexpr float kLog2E = 1.44269504088896340736f;

// Scratch of the stages that several threads may run for one item.
struct ThreadScratch {
  AlignedBuffer<float> queries;  // [num_rows][rank], int8 columns: scales folded in
  AlignedBuffer<float> tail;     // [rank][tail positions rounded up]
  std::vector<int32_t> dims;
};
ThreadScratch& Thread() {
  thread_local ThreadScratch scratch;
  return scratch;
}

}  // namespace

void SparqTask::Begin(const SparseItem& item, const KvView& kv) {
  item_ = item;
  kv_ = kv;
  const SparseParams& p = item.params;
  KVASIR_CHECK(p.rank >= 1 && p.rank <= kv.k_dim && p.top_k >= 1);
  KVASIR_CHECK(p.local_window >= 0 && p.local_window <= p.top_k);
  KVASIR_CHECK(!grows() || p.max_top_k >= p.top_k);
  num_rank_chunks_ = 0;
  attention_.Begin(item, kv);
  if (item.given != nullptr) return TakeGiven();
  alpha_.assign(item.group, 1.0f);
  num_picks_ = std::min(grows() ? p.max_top_k : p.top_k, item.positions);
  picks_.Resize(num_picks_ + kColumnGroup);
  if (p.top_k < item.positions) BeginRanking();  // else dense: nothing to rank
}

void SparqTask::BeginRanking() {
  const SparseItem& item = item_;
  const KvView& kv = kv_;
  by_pairs_ = item.bf16_products && PairRanking::Suits(kv) && ranks_by_weights() && !needs_mass();
  if (ranks_by_weights()) {
    num_rows_ = stat_rows_ = rank_row_ = item.group;  // the combined row comes behind them
  } else if (item.group == 1) {
    num_rows_ = 1;
    rank_row_ = 0;
    stat_rows_ = needs_mass() ? 1 : 0;
  } else {
    // The sum of the logits is one product with the sum of the queries; the single rows are for
    // masses only.
    stat_rows_ = needs_mass() ? item.group : 0;
    num_rows_ = stat_rows_ + 1;
    rank_row_ = stat_rows_;
  }
  const size_t padded = RoundUpColumns(item.positions);
  // Not a power of two apart, or rows would share cache sets.
  score_stride_ =
      (padded + kColumnGroup) / (2 * kColumnGroup) * 2 * kColumnGroup + 2 * kColumnGroup;
  select_scratch_.Resize(padded + kColumnGroup);
  ChooseDims();
  ProjectQueries();
  columns_ = ChosenColumns(item, kv, dims_);
  if (by_pairs_) {
    rank_row_ = 0;
    scores_.Resize(score_stride_);
    pairs_.Begin(columns_, {queries_.data(), queries_.size()}, item.positions);
    num_rank_chunks_ = pairs_.num_chunks();
    return;
  }
  rank_chunk_tokens_ = std::max(1, kRankChunkTokens / kv.block_tokens) * kv.block_tokens;
  num_rank_chunks_ = (item.positions + rank_chunk_tokens_ - 1) / rank_chunk_tokens_;
  scores_.Resize((static_cast<size_t>(num_rows_) + 1) * score_stride_);
  for (auto* buffer : {&chunk_max_, &chunk_sum_, &chunk_factors_}) {
    buffer->Resize(static_cast<size_t>(num_rank_chunks_) * stat_rows_);
  }
  row_max_.resize(stat_rows_);
  row_sum_.resize(stat_rows_);
}

void SparqTask::TakeGiven() {
  num_picks_ = static_cast<int>(item_.given->positions.size());
  alpha_ = item_.given->alpha;
  picks_.Resize(num_picks_);
  std::copy_n(item_.given->positions.data(), num_picks_, picks_.data());
}

void SparqTask::ChooseDims() {
  magnitudes_.assign(kv_.k_dim, 0.0f);
  for (int h = 0; h < item_.group; ++h) {
    for (int d = 0; d < kv_.k_dim; ++d) magnitudes_[d] += std::abs(item_.q[h * kv_.k_dim + d]);
  }
  dims_.resize(kv_.k_dim);
  std::iota(dims_.begin(), dims_.end(), 0);
  std::partial_sort(
      dims_.begin(), dims_.begin() + item_.params.rank, dims_.end(), [this](int32_t a, int32_t b) {
        return magnitudes_[a] != magnitudes_[b] ? magnitudes_[a] > magnitudes_[b] : a < b;
      });
  dims_.resize(item_.params.rank);
  std::sort(dims_.begin(), dims_.end());
}

void SparqTask::ProjectQueries() {
  const int rank = item_.params.rank;
  queries_.Resize(static_cast<size_t>(num_rows_) * rank);
  const bool summed = rank_row_ == num_rows_ - 1 && item_.group > 1 && !ranks_by_weights();
  float* sum = queries_.data() + static_cast<size_t>(num_rows_ - 1) * rank;
  if (summed) std::fill_n(sum, rank, 0.0f);
  for (int h = 0; h < item_.group; ++h) {
    const float* q = item_.q + static_cast<size_t>(h) * kv_.k_dim;
    float all = 0, chosen = 0;
    for (int d = 0; d < kv_.k_dim; ++d) all += std::abs(q[d]);
    for (const int32_t d : dims_) chosen += std::abs(q[d]);
    // A query of zeros has no temperature; its logits are zero whatever it is.
    const float tau = chosen > 0 ? std::sqrt(static_cast<float>(kv_.k_dim) * chosen / all) : 1.0f;
    const float factor = kLog2E / tau;
    if (h < num_rows_ - (summed ? 1 : 0)) {
      for (int i = 0; i < rank; ++i)
        queries_[static_cast<size_t>(h) * rank + i] = q[dims_[i]] * factor;
    }
    if (summed) {
      for (int i = 0; i < rank; ++i) sum[i] += q[dims_[i]] * factor;
    }
  }
}

int SparqTask::RankEnd(int chunk) const {
  return std::min(item_.positions, (chunk + 1) * rank_chunk_tokens_);
}

void SparqTask::Rank(int chunk) {
  if (by_pairs_) return pairs_.Rank(chunk);
  const int begin = RankBegin(chunk), end = RankEnd(chunk);
  const int full_end = end / kv_.block_tokens * kv_.block_tokens;
  if (full_end > begin) {
    switch (kv_.column_type()) {
      case KvElementType::kF32:
        RankColumns<float>(begin, full_end);
        break;
      case KvElementType::kBf16:
        RankColumns<bf16>(begin, full_end);
        break;
      case KvElementType::kF16:
        RankColumns<f16>(begin, full_end);
        break;
      case KvElementType::kInt8:
        RankColumns<int8_t>(begin, full_end);
        break;
    }
  }
  if (end > full_end) RankTail(full_end, end);

  const size_t count = end - begin;
  for (int row = 0; row < stat_rows_; ++row) {
    float* scores = ScoreRow(row) + begin;
    RowStatistics statistics;
    if (ranks_by_weights()) {
      statistics = SoftmaxRow(scores, count, RoundUpColumns(count), 1.0f);
    } else {
      statistics.max = MaxOf(scores, count);
      statistics.sum = SumExp2(scores, count, statistics.max);
    }
    chunk_max_[static_cast<size_t>(chunk) * stat_rows_ + row] = statistics.max;
    chunk_sum_[static_cast<size_t>(chunk) * stat_rows_ + row] = statistics.sum;
  }
}

template <class T>
void SparqTask::RankColumns(int begin, int end) {
  const size_t rank = dims_.size();
  const bool scaled = columns_.is_int8();
  const float* q = queries_.data();
  ThreadScratch& thread = Thread();
  if (scaled) thread.queries.Resize(num_rows_ * rank);
  const int piece = kv_.block_tokens * std::max(1, kAskTokens / kv_.block_tokens);
  for (int position = begin; position < end; position += kv_.block_tokens) {
    if ((position - begin) % piece == 0)
      columns_.PrefetchAhead(position, std::min(end, position + piece));
    const int block = position / kv_.block_tokens;
    if (scaled) {
      const float* scales = columns_.Scales(block);
      for (size_t i = 0; i < rank; ++i) {
        for (int row = 0; row < num_rows_; ++row) {
          thread.queries[row * rank + i] = queries_[row * rank + i] * scales[dims_[i]];
        }
      }
      q = thread.queries.data();
    }
    ScoreColumns(reinterpret_cast<const T*>(columns_.Block(block)),
                 static_cast<size_t>(kv_.block_tokens), dims_.data(), rank, q, rank,
                 static_cast<size_t>(num_rows_), ScoreRow(0) + position, score_stride_);
  }
}

void SparqTask::RankTail(int begin, int end) {
  const size_t stride = RoundUpColumns(end - begin);
  ThreadScratch& thread = Thread();
  thread.tail.Resize(dims_.size() * stride);
  columns_.CopyRows(begin, end, stride, thread.tail.data());
  thread.dims.resize(dims_.size());
  std::iota(thread.dims.begin(), thread.dims.end(), 0);
  ScoreColumns<float>(thread.tail.data(), stride, thread.dims.data(), dims_.size(), queries_.data(),
                      dims_.size(), static_cast<size_t>(num_rows_), ScoreRow(0) + begin,
                      score_stride_);
}

void SparqTask::Merge() {
  if (by_pairs_) {
    if (!pairs_.Merge()) RankWithoutPairs();
    return;
  }
  for (int row = 0; row < stat_rows_; ++row) {
    const RowStatistics whole =
        MergeChunks(chunk_max_.data() + row, chunk_sum_.data() + row, stat_rows_, num_rank_chunks_,
                    chunk_factors_.data() + static_cast<size_t>(row) * num_rank_chunks_);
    row_max_[row] = whole.max;
    row_sum_[row] = whole.sum;
  }
}

void SparqTask::RankWithoutPairs() {
  item_.bf16_products = false;
  BeginRanking();
  for (int c = 0; c < num_rank_chunks_; ++c) Rank(c);
  Merge();
}

void SparqTask::Combine(int chunk) {
  if (!ranks_by_weights()) return;
  if (by_pairs_) return pairs_.Combine(chunk, ScoreRow(rank_row_));
  const int begin = RankBegin(chunk), count = RankEnd(chunk) - begin;
  float* combined = ScoreRow(rank_row_) + begin;
  std::fill_n(combined, count, 0.0f);
  for (int row = 0; row < stat_rows_; ++row) {
    AddScaled(ScoreRow(row) + begin, count,
              chunk_factors_[static_cast<size_t>(row) * num_rank_chunks_ + chunk], combined);
  }
}

void SparqTask::Select() {
  if (item_.given != nullptr) {
    // Begin took them.
  } else if (num_rank_chunks_ == 0) {
    std::iota(picks_.data(), picks_.data() + num_picks_, 0);
  } else {
    const int window = item_.params.local_window;
    const int others = item_.positions - window;
    int ranked = num_picks_ - window;
    SelectLargest(ScoreRow(rank_row_), others, ranked, select_scratch_.data(), picks_.data());
    if (grows()) ranked = LeastForMass(ranked);
    num_picks_ = ranked + window;
    std::iota(picks_.data() + ranked, picks_.data() + num_picks_, others);
    if (item_.params.mean_value) SumAlpha();
  }
  attention_.SetPicks(picks());
  ReportPicks();
}

void SparqTask::ReportPicks() {
  if (item_.num_picks != nullptr) *item_.num_picks = num_picks_;
  if (item_.kept == nullptr) return;
  item_.kept->positions.assign(picks_.data(), picks_.data() + num_picks_);
  item_.kept->alpha = alpha_;
}

float SparqTask::MassOf(int h, int position) const {
  const float score = ScoreRow(h)[position];
  if (!ranks_by_weights()) return Exp2Scalar(score - row_max_[h]) / row_sum_[h];
  return score *
         chunk_factors_[static_cast<size_t>(h) * num_rank_chunks_ + position / rank_chunk_tokens_];
}

int SparqTask::LeastForMass(int candidates) {
  const float* scores = ScoreRow(rank_row_);
  const auto mass = [this](int position) {
    float sum = 0;
    for (int h = 0; h < item_.group; ++h) sum += MassOf(h, position);
    return sum / static_cast<float>(item_.group);
  };
  const int window = item_.params.local_window;
  double reached = 0;
  for (int position = item_.positions - window; position < item_.positions; ++position)
    reached += mass(position);
  best_first_.assign(picks_.data(), picks_.data() + candidates);
  std::sort(best_first_.begin(), best_first_.end(), [scores](int32_t a, int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  int count = 0;
  while (count < candidates &&
         (count + window < item_.params.top_k || reached < item_.params.least_mass)) {
    reached += mass(best_first_[count++]);
  }
  std::copy_n(best_first_.data(), count, picks_.data());
  std::sort(picks_.data(), picks_.data() + count);
  return count;
}

void SparqTask::SumAlpha() {
  // The selection is done, so its scratch can hold the picks' scores.
  float* picked = reinterpret_cast<float*>(select_scratch_.data());
  for (int h = 0; h < item_.group; ++h) {
    const float* scores = ScoreRow(h);
    if (ranks_by_weights()) {
      alpha_[h] = 0;
      for (int i = 0; i < num_picks_; ++i) alpha_[h] += MassOf(h, picks_[i]);
    } else {
      for (int i = 0; i < num_picks_; ++i) picked[i] = scores[picks_[i]];
      alpha_[h] = SumExp2(picked, num_picks_, row_max_[h]) / row_sum_[h];
    }
    alpha_[h] = std::min(alpha_[h], 1.0f);  // rounding
  }
}

void SparqTask::Finish() {
  attention_.Finish(item_.out);
  if (item_.params.mean_value && num_picks_ < item_.positions) AddMeanValue();
}

void SparqTask::AddMeanValue() {
  std::vector<float>& mean = magnitudes_;  // free since Begin
  mean.assign(kv_.v_dim, 0.0f);
  const int full_blocks = item_.positions / kv_.block_tokens;
  if (full_blocks > 0) {
    std::copy_n(kv_.VPrefixSum(item_.blocks[full_blocks - 1], item_.kv_head), kv_.v_dim,
                mean.data());
  }
  const int tail = item_.positions - full_blocks * kv_.block_tokens;
  if (tail > 0) AddValueRows(kv_, item_.blocks[full_blocks], item_.kv_head, tail, mean.data());
  int counted = item_.positions;
  if (item_.params.mean_of_unselected) {
    // Their rows were just mixed, so they are in the cache.
    std::vector<float> picked(kv_.v_dim, 0.0f);
    for (int i = 0; i < num_picks_; ++i) {
      AddValueRow(kv_, item_.blocks[picks_[i] / kv_.block_tokens], item_.kv_head,
                  picks_[i] % kv_.block_tokens, picked.data());
    }
    for (int d = 0; d < kv_.v_dim; ++d) mean[d] -= picked[d];
    counted -= num_picks_;
  }
  for (float& x : mean) x /= static_cast<float>(counted);
  for (int h = 0; h < item_.group; ++h) {
    BlendRow(item_.out + static_cast<size_t>(h) * kv_.v_dim, alpha_[h], mean.data(),
             1.0f - alpha_[h], kv_.v_dim);
  }
}

}  // namespace kvasir
