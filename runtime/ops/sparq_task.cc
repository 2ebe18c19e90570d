#include "runtime/ops/sparq_task.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>

#include "kvcache/check.h"
#include "runtime/base/bf16.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/sparq_kernels.h"
#include "runtime/ops/key_columns.h"

namespace kvasir {
namespace {

// Positions ranked in one go: a row of their scores stays in the first cache level between its passes.
constexpr int kRankChunkTokens = 4096;

// Picks attended to in one go: their K and then V rows stay in the first cache level while the group's heads take
// turns (128 rows of 128 bf16 are 32 KiB).
constexpr int kPickChunk = 128;

// Blocks whose columns are asked for ahead: 16 dimensions of four blocks of 32 are 4 KiB, twice what a core's
// bandwidth delivers within the latency of memory.
constexpr int kBlocksAhead = 8;

constexpr float kLog2E = 1.44269504088896340736f;

// Scratch of the stages that several threads may run for one item.
struct ThreadScratch {
  AlignedBuffer<float> queries;  // [num_rows][rank], int8 columns: scales folded in
  AlignedBuffer<float> tail;     // [rank][tail positions rounded up]
  AlignedBuffer<float> scores;   // [group][kPickChunk]
  std::vector<int32_t> dims;
};
ThreadScratch& Thread() {
  thread_local ThreadScratch scratch;
  return scratch;
}

template <class T>
float ElementAsFloat(T value) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<float>(value);
  } else {
    return ToFloat(value);
  }
}

// out[i][t] = K[t][dims[i]] of the first `count` rows of a block; [rank][stride], 0 beyond count.
template <class T>
void GatherTail(const T* rows, const float* scales, int k_dim, int count, absl::Span<const int32_t> dims, size_t stride,
                float* out) {
  for (size_t i = 0; i < dims.size(); ++i) {
    float* to = out + i * stride;
    for (int t = 0; t < count; ++t) {
      to[t] = ElementAsFloat(rows[static_cast<size_t>(t) * k_dim + dims[i]]) * (scales == nullptr ? 1.0f : scales[t]);
    }
    std::fill(to + count, to + stride, 0.0f);
  }
}

}  // namespace

void SparqTask::Begin(const SparqItem& item, const KvView& kv) {
  item_ = item;
  kv_ = kv;
  const SparqParams& p = item.params;
  KVASIR_CHECK(p.rank >= 1 && p.rank <= kv.k_dim && p.top_k >= 1);
  KVASIR_CHECK(p.local_window >= 0 && p.local_window <= p.top_k);
  KVASIR_CHECK(!grows() || p.max_top_k >= p.top_k);
  num_rank_chunks_ = 0;
  if (item.given != nullptr) return TakeGiven();
  alpha_.assign(item.group, 1.0f);
  num_picks_ = std::min(grows() ? p.max_top_k : p.top_k, item.positions);
  picks_.Resize(num_picks_ + kColumnGroup);
  SizeParts();
  if (p.top_k >= item.positions) return;  // dense: nothing to rank

  rank_chunk_tokens_ = std::max(1, kRankChunkTokens / kv.block_tokens) * kv.block_tokens;
  num_rank_chunks_ = (item.positions + rank_chunk_tokens_ - 1) / rank_chunk_tokens_;
  if (ranks_by_weights()) {
    num_rows_ = stat_rows_ = rank_row_ = item.group;  // the combined row comes behind them
  } else if (item.group == 1) {
    num_rows_ = 1;
    rank_row_ = 0;
    stat_rows_ = needs_mass() ? 1 : 0;
  } else {
    // The sum of the logits is one product with the sum of the queries; the single rows are for masses only.
    stat_rows_ = needs_mass() ? item.group : 0;
    num_rows_ = stat_rows_ + 1;
    rank_row_ = stat_rows_;
  }
  const size_t padded = RoundUpColumns(item.positions);
  score_stride_ = padded + kColumnGroup;  // not a power of two apart, or rows would share cache sets
  scores_.Resize((static_cast<size_t>(num_rows_) + 1) * score_stride_);
  chunk_max_.Resize(static_cast<size_t>(num_rank_chunks_) * stat_rows_);
  chunk_sum_.Resize(static_cast<size_t>(num_rank_chunks_) * stat_rows_);
  row_max_.resize(stat_rows_);
  row_sum_.resize(stat_rows_);
  select_scratch_.Resize(padded + kColumnGroup);
  ChooseDims();
  ProjectQueries();
}

void SparqTask::TakeGiven() {
  num_picks_ = static_cast<int>(item_.given->positions.size());
  alpha_ = item_.given->alpha;
  picks_.Resize(num_picks_);
  std::copy_n(item_.given->positions.data(), num_picks_, picks_.data());
  SizeParts();
}

void SparqTask::SizeParts() {
  const size_t part_rows = static_cast<size_t>(num_attend_chunks()) * item_.group;
  part_mix_.Resize(part_rows * kv_.v_dim);
  part_max_.Resize(part_rows);
  part_sum_.Resize(part_rows);
}

void SparqTask::ChooseDims() {
  magnitudes_.assign(kv_.k_dim, 0.0f);
  for (int h = 0; h < item_.group; ++h) {
    for (int d = 0; d < kv_.k_dim; ++d) magnitudes_[d] += std::abs(item_.q[h * kv_.k_dim + d]);
  }
  dims_.resize(kv_.k_dim);
  std::iota(dims_.begin(), dims_.end(), 0);
  std::partial_sort(dims_.begin(), dims_.begin() + item_.params.rank, dims_.end(), [this](int32_t a, int32_t b) {
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
      for (int i = 0; i < rank; ++i) queries_[static_cast<size_t>(h) * rank + i] = q[dims_[i]] * factor;
    }
    if (summed) {
      for (int i = 0; i < rank; ++i) sum[i] += q[dims_[i]] * factor;
    }
  }
}

int SparqTask::RankEnd(int chunk) const { return std::min(item_.positions, (chunk + 1) * rank_chunk_tokens_); }

void SparqTask::Rank(int chunk) {
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
  const bool scaled = kv_.sparq_keys == SparqKeys::kInt8;
  const float* q = queries_.data();
  ThreadScratch& thread = Thread();
  if (scaled) thread.queries.Resize(num_rows_ * rank);
  const int last_block = item_.positions / kv_.block_tokens;  // the first without columns
  for (int position = begin; position < end; position += kv_.block_tokens) {
    const int block = position / kv_.block_tokens;
    if (scaled) {
      const float* scales = kv_.KeyColumnScales(item_.blocks[block], item_.kv_head);
      for (size_t i = 0; i < rank; ++i) {
        for (int row = 0; row < num_rows_; ++row) {
          thread.queries[row * rank + i] = queries_[row * rank + i] * scales[dims_[i]];
        }
      }
      q = thread.queries.data();
    }
    const T* ahead = block + kBlocksAhead < last_block ? reinterpret_cast<const T*>(kv_.KeyColumns(
                                                             item_.blocks[block + kBlocksAhead], item_.kv_head))
                                                       : nullptr;
    ScoreColumns(reinterpret_cast<const T*>(kv_.KeyColumns(item_.blocks[block], item_.kv_head)),
                 static_cast<size_t>(kv_.block_tokens), dims_.data(), rank, q, rank, static_cast<size_t>(num_rows_),
                 ahead, ScoreRow(0) + position, score_stride_);
  }
}

void SparqTask::RankTail(int begin, int end) {
  ThreadScratch& thread = Thread();
  const int count = end - begin;
  const size_t stride = RoundUpColumns(count);
  thread.tail.Resize(dims_.size() * stride);
  thread.dims.resize(dims_.size());
  std::iota(thread.dims.begin(), thread.dims.end(), 0);
  const BlockId block = item_.blocks[begin / kv_.block_tokens];
  const uint8_t* rows = kv_.K(block, item_.kv_head);
  float* tail = thread.tail.data();
  switch (kv_.element_type) {
    case KvElementType::kF32:
      GatherTail(reinterpret_cast<const float*>(rows), nullptr, kv_.k_dim, count, dims_, stride, tail);
      break;
    case KvElementType::kBf16:
      GatherTail(reinterpret_cast<const bf16*>(rows), nullptr, kv_.k_dim, count, dims_, stride, tail);
      break;
    case KvElementType::kF16:
      GatherTail(reinterpret_cast<const f16*>(rows), nullptr, kv_.k_dim, count, dims_, stride, tail);
      break;
    case KvElementType::kInt8:
      GatherTail(reinterpret_cast<const int8_t*>(rows), kv_.KScale(block, item_.kv_head), kv_.k_dim, count, dims_,
                 stride, tail);
      break;
  }
  ScoreColumns<float>(tail, stride, thread.dims.data(), dims_.size(), queries_.data(), dims_.size(),
                      static_cast<size_t>(num_rows_), nullptr, ScoreRow(0) + begin, score_stride_);
}

void SparqTask::Combine(int chunk) {
  if (!ranks_by_weights()) return;
  const int begin = RankBegin(chunk), count = RankEnd(chunk) - begin;
  float* combined = ScoreRow(rank_row_) + begin;
  std::fill_n(combined, count, 0.0f);
  for (int row = 0; row < stat_rows_; ++row) {
    // Every chunk merges the statistics for itself: a few additions, against a stage of their own.
    float max = chunk_max_[row], sum = 0;
    for (int c = 1; c < num_rank_chunks_; ++c) max = std::max(max, chunk_max_[static_cast<size_t>(c) * stat_rows_ + row]);
    for (int c = 0; c < num_rank_chunks_; ++c) {
      const size_t at = static_cast<size_t>(c) * stat_rows_ + row;
      sum += chunk_sum_[at] * Exp2Scalar(chunk_max_[at] - max);
    }
    const float factor = Exp2Scalar(chunk_max_[static_cast<size_t>(chunk) * stat_rows_ + row] - max) / sum;
    AddScaled(ScoreRow(row) + begin, count, factor, combined);
  }
}

void SparqTask::MergeStatistics() {
  for (int row = 0; row < stat_rows_; ++row) {
    row_max_[row] = chunk_max_[row];
    for (int c = 1; c < num_rank_chunks_; ++c) {
      row_max_[row] = std::max(row_max_[row], chunk_max_[static_cast<size_t>(c) * stat_rows_ + row]);
    }
    row_sum_[row] = 0;
    for (int c = 0; c < num_rank_chunks_; ++c) {
      const size_t at = static_cast<size_t>(c) * stat_rows_ + row;
      row_sum_[row] += chunk_sum_[at] * Exp2Scalar(chunk_max_[at] - row_max_[row]);
    }
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
    if (needs_mass()) MergeStatistics();
    if (grows()) ranked = LeastForMass(ranked);
    num_picks_ = ranked + window;
    std::iota(picks_.data() + ranked, picks_.data() + num_picks_, others);
    if (item_.params.mean_value) SumAlpha();
  }
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
  const size_t chunk = position / rank_chunk_tokens_;
  return score * Exp2Scalar(chunk_max_[chunk * stat_rows_ + h] - row_max_[h]) / row_sum_[h];
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
  for (int position = item_.positions - window; position < item_.positions; ++position) reached += mass(position);
  best_first_.assign(picks_.data(), picks_.data() + candidates);
  std::sort(best_first_.begin(), best_first_.end(), [scores](int32_t a, int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  int count = 0;
  while (count < candidates && (count + window < item_.params.top_k || reached < item_.params.least_mass)) {
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
      float mass = 0;
      int chunk = -1;
      float factor = 0;
      for (int i = 0; i < num_picks_; ++i) {
        if (picks_[i] / rank_chunk_tokens_ != chunk) {
          chunk = picks_[i] / rank_chunk_tokens_;
          factor = Exp2Scalar(chunk_max_[static_cast<size_t>(chunk) * stat_rows_ + h] - row_max_[h]);
        }
        mass += scores[picks_[i]] * factor;
      }
      alpha_[h] = mass / row_sum_[h];
    } else {
      for (int i = 0; i < num_picks_; ++i) picked[i] = scores[picks_[i]];
      alpha_[h] = SumExp2(picked, num_picks_, row_max_[h]) / row_sum_[h];
    }
    alpha_[h] = std::min(alpha_[h], 1.0f);  // rounding
  }
}

int SparqTask::num_attend_chunks() const { return (num_picks_ + kPickChunk - 1) / kPickChunk; }

void SparqTask::Attend(int chunk) {
  switch (kv_.element_type) {
    case KvElementType::kF32:
      return AttendRows<float>(chunk);
    case KvElementType::kBf16:
      return AttendRows<bf16>(chunk);
    case KvElementType::kF16:
      return AttendRows<f16>(chunk);
    case KvElementType::kInt8:
      return AttendRows<int8_t>(chunk);
  }
}

template <class T>
void SparqTask::AttendRows(int chunk) {
  const int begin = chunk * kPickChunk;
  const int count = std::min(kPickChunk, num_picks_ - begin);
  // K rows, V rows, and the next chunk's first K rows in one list: each is prefetched while an earlier one is used.
  const T* rows[2 * kPickChunk + kRowsAhead];
  float key_scales[kPickChunk], value_scales[kPickChunk];
  const auto place = [&](int pick, int* slot) {
    const int position = picks_[pick];
    *slot = position % kv_.block_tokens;
    return item_.blocks[position / kv_.block_tokens];
  };
  int slot;
  for (int i = 0; i < count; ++i) {
    const BlockId block = place(begin + i, &slot);
    rows[i] = reinterpret_cast<const T*>(kv_.K(block, item_.kv_head)) + static_cast<size_t>(slot) * kv_.k_dim;
    rows[count + i] = reinterpret_cast<const T*>(kv_.V(block, item_.kv_head)) + static_cast<size_t>(slot) * kv_.v_dim;
    if constexpr (std::is_same_v<T, int8_t>) {
      key_scales[i] = kv_.KScale(block, item_.kv_head)[slot];
      value_scales[i] = kv_.VScale(block, item_.kv_head)[slot];
    }
  }
  for (int i = 0; i < static_cast<int>(kRowsAhead); ++i) {
    const int pick = std::min(begin + count + i, num_picks_ - 1);
    const BlockId block = place(pick, &slot);
    rows[2 * count + i] = reinterpret_cast<const T*>(kv_.K(block, item_.kv_head)) + static_cast<size_t>(slot) * kv_.k_dim;
  }

  AlignedBuffer<float>& scores = Thread().scores;
  scores.Resize(static_cast<size_t>(item_.group) * kPickChunk);
  ScoreRows(rows, count, kv_.k_dim, item_.q, item_.group, scores.data(), kPickChunk);
  const size_t part = static_cast<size_t>(chunk) * item_.group;
  for (int h = 0; h < item_.group; ++h) {
    float* row = scores.data() + static_cast<size_t>(h) * kPickChunk;
    if constexpr (std::is_same_v<T, int8_t>) {
      for (int i = 0; i < count; ++i) row[i] *= key_scales[i];
    }
    const RowStatistics statistics = SoftmaxRow(row, count, RoundUpColumns(count), item_.scale * kLog2E);
    part_max_[part + h] = statistics.max;
    part_sum_[part + h] = statistics.sum;
    if constexpr (std::is_same_v<T, int8_t>) {
      for (int i = 0; i < count; ++i) row[i] *= value_scales[i];
    }
  }
  MixRows(rows + count, count, kv_.v_dim, scores.data(), kPickChunk, item_.group, part_mix_.data() + part * kv_.v_dim,
          kv_.v_dim);
}

void SparqTask::Finish() {
  const int chunks = num_attend_chunks();
  for (int h = 0; h < item_.group; ++h) {
    float max = part_max_[h];
    for (int c = 1; c < chunks; ++c) max = std::max(max, part_max_[static_cast<size_t>(c) * item_.group + h]);
    float sum = 0;
    float* out = item_.out + static_cast<size_t>(h) * kv_.v_dim;
    std::fill_n(out, kv_.v_dim, 0.0f);
    for (int c = 0; c < chunks; ++c) {
      const size_t part = static_cast<size_t>(c) * item_.group + h;
      const float factor = Exp2Scalar(part_max_[part] - max);
      sum += part_sum_[part] * factor;
      AddScaled(part_mix_.data() + part * kv_.v_dim, kv_.v_dim, factor, out);
    }
    const float factor = 1.0f / sum;
    for (int d = 0; d < kv_.v_dim; ++d) out[d] *= factor;
  }
  if (item_.params.mean_value && num_picks_ < item_.positions) AddMeanValue();
}

void SparqTask::AddMeanValue() {
  std::vector<float>& mean = magnitudes_;  // free since Begin
  mean.assign(kv_.v_dim, 0.0f);
  const int full_blocks = item_.positions / kv_.block_tokens;
  if (full_blocks > 0) {
    std::copy_n(kv_.VPrefixSum(item_.blocks[full_blocks - 1], item_.kv_head), kv_.v_dim, mean.data());
  }
  const int tail = item_.positions - full_blocks * kv_.block_tokens;
  if (tail > 0) AddValueRows(kv_, item_.blocks[full_blocks], item_.kv_head, tail, mean.data());
  int counted = item_.positions;
  if (item_.params.mean_of_unselected) {
    // Their rows were just mixed, so they are in the cache.
    std::vector<float> picked(kv_.v_dim, 0.0f);
    for (int i = 0; i < num_picks_; ++i) {
      AddValueRow(kv_, item_.blocks[picks_[i] / kv_.block_tokens], item_.kv_head, picks_[i] % kv_.block_tokens,
                  picked.data());
    }
    for (int d = 0; d < kv_.v_dim; ++d) mean[d] -= picked[d];
    counted -= num_picks_;
  }
  for (float& x : mean) x /= static_cast<float>(counted);
  for (int h = 0; h < item_.group; ++h) {
    BlendRow(item_.out + static_cast<size_t>(h) * kv_.v_dim, alpha_[h], mean.data(), 1.0f - alpha_[h], kv_.v_dim);
  }
}

}  // namespace kvasir
