#include "runtime/ops/sparq_task.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "kvcache/check.h"
#include "runtime/base/bf16.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/bf16_sparq_kernels.h"
#include "runtime/kernels/sparq_kernels.h"
#include "runtime/ops/key_columns.h"

namespace kvasir {
namespace {

// Positions ranked in one go: a row of their scores stays in the first cache level between its passes.
constexpr int kRankChunkTokens = 4096;

// With pairs: what is packed and weighed in one go. Short, so that asking for columns ahead, which packing does, never
// pauses for long.
constexpr int kPairTileTokens = 64;

// With pairs: the unit that threads share a sequence's ranking by.
constexpr int kPairChunkTokens = 512;

// Positions whose columns are asked for ahead: 16 dimensions of them are 8 KiB, what a core needs on its way to reach
// the memory's bandwidth.
constexpr int kTokensAhead = 256;

constexpr float kLog2E = 1.44269504088896340736f;

// Scratch of the stages that several threads may run for one item.
struct ThreadScratch {
  AlignedBuffer<float> queries;  // [num_rows][rank], int8 columns: scales folded in
  AlignedBuffer<float> tail;     // [rank][tail positions rounded up]
  AlignedBuffer<uint32_t> pairs;  // [(rank + 1) / 2][PairStride], with pairs
  AlignedBuffer<float> sums;      // [paired rows][16], with pairs
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
void GatherColumns(const T* rows, const float* scales, int k_dim, int count, absl::Span<const int32_t> dims, size_t stride,
                float* out) {
  for (size_t i = 0; i < dims.size(); ++i) {
    float* to = out + i * stride;
    for (int t = 0; t < count; ++t) {
      to[t] = ElementAsFloat(rows[static_cast<size_t>(t) * k_dim + dims[i]]) * (scales == nullptr ? 1.0f : scales[t]);
    }
    std::fill(to + count, to + stride, 0.0f);
  }
}

// The lines that hold the scales of ascending dimensions: nothing else of a block reads them ahead.
void PrefetchScales(const float* scales, absl::Span<const int32_t> dims) {
  constexpr int kPerLine = 64 / sizeof(float);
  int line = -1;
  for (const int32_t d : dims) {
    if (d / kPerLine != line) __builtin_prefetch(scales + d);
    line = d / kPerLine;
  }
}

uint32_t PairOf(float first, float second) {
  const bf16 pair[2] = {ToBf16(first), ToBf16(second)};
  uint32_t word;
  std::memcpy(&word, pair, sizeof(word));
  return word;
}

// Tokens of a tile: whole blocks. Also the distance of its packed rows.
int PairTile(const KvView& kv) { return kv.block_tokens * std::max(1, kPairTileTokens / kv.block_tokens); }

}  // namespace

void SparqTask::Begin(const SparqItem& item, const KvView& kv) {
  item_ = item;
  kv_ = kv;
  const SparqParams& p = item.params;
  KVASIR_CHECK(p.rank >= 1 && p.rank <= kv.k_dim && p.top_k >= 1);
  KVASIR_CHECK(p.local_window >= 0 && p.local_window <= p.top_k);
  KVASIR_CHECK(!grows() || p.max_top_k >= p.top_k);
  num_rank_chunks_ = 0;
  pairs_ = false;
  attention_.Begin(item, kv);
  if (item.given != nullptr) return TakeGiven();
  alpha_.assign(item.group, 1.0f);
  num_picks_ = std::min(grows() ? p.max_top_k : p.top_k, item.positions);
  picks_.Resize(num_picks_ + kColumnGroup);
  if (p.top_k < item.positions) BeginRanking();  // else dense: nothing to rank
}

void SparqTask::BeginRanking() {
  const SparqItem& item = item_;
  const KvView& kv = kv_;
  const bool suits = kv.column_type() == KvElementType::kBf16 || kv.column_type() == KvElementType::kInt8;
  pairs_ = item.bf16_products && suits && ranks_by_weights() && !needs_mass();
  const int unit = pairs_ ? PairTile(kv) : kv.block_tokens;
  rank_chunk_tokens_ = std::max(1, (pairs_ ? kPairChunkTokens : kRankChunkTokens) / unit) * unit;
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
  // Not a power of two apart, or rows would share cache sets.
  score_stride_ = (padded + kColumnGroup) / (2 * kColumnGroup) * 2 * kColumnGroup + 2 * kColumnGroup;
  if (pairs_) {
    rank_row_ = 0;
    scores_.Resize(score_stride_);
  } else {
    scores_.Resize((static_cast<size_t>(num_rows_) + 1) * score_stride_);
  }
  for (auto* buffer : {&chunk_max_, &chunk_sum_, &chunk_factors_}) {
    buffer->Resize(static_cast<size_t>(num_rank_chunks_) * stat_rows_);
  }
  row_max_.resize(stat_rows_);
  row_sum_.resize(stat_rows_);
  select_scratch_.Resize(padded + kColumnGroup);
  ChooseDims();
  ProjectQueries();
  if (pairs_) BeginPairs();
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

void SparqTask::BeginPairs() {
  const size_t rank = dims_.size(), pairs = (rank + 1) / 2;
  paired_rows_ = num_rows_ + num_rows_ % 2;
  weights_.Resize(static_cast<size_t>(paired_rows_ / 2) * score_stride_);
  query_pairs_.Resize(paired_rows_ * pairs);
  for (int row = 0; row < paired_rows_; ++row) {
    const float* q = queries_.data() + row * rank;
    for (size_t i = 0; i < rank; i += 2) {
      const bool exists = row < num_rows_;
      query_pairs_[row * pairs + i / 2] = exists ? PairOf(q[i], i + 1 < rank ? q[i + 1] : 0.0f) : 0;
    }
  }
  // The largest logits of the first tile. The exponents of bf16 reach so far that others may lie far above or below.
  references_.resize(paired_rows_);
  const int end = std::min(item_.positions, PairTile(kv_));
  PackColumns(0, end);
  MaxOfColumns(query_pairs_.data(), paired_rows_, pairs, Thread().pairs.data(), PairTile(kv_), end,
               references_.data());
}

int SparqTask::RankEnd(int chunk) const { return std::min(item_.positions, (chunk + 1) * rank_chunk_tokens_); }

void SparqTask::Rank(int chunk) {
  if (pairs_) return RankPairs(chunk);
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
  const int blocks_ahead = std::max(1, kTokensAhead / kv_.block_tokens);
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
    const T* ahead = nullptr;
    if (block + blocks_ahead < last_block) {
      const BlockId next = item_.blocks[block + blocks_ahead];
      ahead = reinterpret_cast<const T*>(kv_.KeyColumns(next, item_.kv_head));
      if (scaled) PrefetchScales(kv_.KeyColumnScales(next, item_.kv_head), dims_);
    }
    ScoreColumns(reinterpret_cast<const T*>(kv_.KeyColumns(item_.blocks[block], item_.kv_head)),
                 static_cast<size_t>(kv_.block_tokens), dims_.data(), rank, q, rank, static_cast<size_t>(num_rows_),
                 ahead, ScoreRow(0) + position, score_stride_);
  }
}

size_t SparqTask::GatherTail(int begin, int end) const {
  const int count = end - begin;
  const size_t stride = RoundUpColumns(count);
  AlignedBuffer<float>& buffer = Thread().tail;
  buffer.Resize(dims_.size() * stride);
  const BlockId block = item_.blocks[begin / kv_.block_tokens];
  const uint8_t* rows = kv_.K(block, item_.kv_head);
  float* tail = buffer.data();
  switch (kv_.element_type) {
    case KvElementType::kF32:
      GatherColumns(reinterpret_cast<const float*>(rows), nullptr, kv_.k_dim, count, dims_, stride, tail);
      break;
    case KvElementType::kBf16:
      GatherColumns(reinterpret_cast<const bf16*>(rows), nullptr, kv_.k_dim, count, dims_, stride, tail);
      break;
    case KvElementType::kF16:
      GatherColumns(reinterpret_cast<const f16*>(rows), nullptr, kv_.k_dim, count, dims_, stride, tail);
      break;
    case KvElementType::kInt8:
      GatherColumns(reinterpret_cast<const int8_t*>(rows), kv_.KScale(block, item_.kv_head), kv_.k_dim, count, dims_,
                    stride, tail);
      break;
  }
  return stride;
}

void SparqTask::RankTail(int begin, int end) {
  const size_t stride = GatherTail(begin, end);
  ThreadScratch& thread = Thread();
  thread.dims.resize(dims_.size());
  std::iota(thread.dims.begin(), thread.dims.end(), 0);
  ScoreColumns<float>(thread.tail.data(), stride, thread.dims.data(), dims_.size(), queries_.data(), dims_.size(),
                      static_cast<size_t>(num_rows_), nullptr, ScoreRow(0) + begin, score_stride_);
}

void SparqTask::PackColumns(int begin, int end) {
  ThreadScratch& thread = Thread();
  const size_t rank = dims_.size(), stride = PairTile(kv_);
  thread.pairs.Resize((rank + 1) / 2 * stride);
  const int num_blocks = item_.positions / kv_.block_tokens;  // with columns
  const int blocks_ahead = std::max(1, kTokensAhead / kv_.block_tokens);
  int position = begin;
  for (; position + kv_.block_tokens <= end; position += kv_.block_tokens) {
    const int index = position / kv_.block_tokens;
    const BlockId block = item_.blocks[index];
    const BlockId next = index + blocks_ahead < num_blocks ? item_.blocks[index + blocks_ahead] : block;
    uint32_t* out = thread.pairs.data() + (position - begin);
    const uint8_t* columns = kv_.KeyColumns(block, item_.kv_head);
    const uint8_t* ahead = kv_.KeyColumns(next, item_.kv_head);
    if (kv_.column_type() == KvElementType::kInt8) {
      PrefetchScales(kv_.KeyColumnScales(next, item_.kv_head), dims_);
      PackColumnPairs(reinterpret_cast<const int8_t*>(columns), kv_.KeyColumnScales(block, item_.kv_head),
                      kv_.block_tokens, dims_.data(), rank, reinterpret_cast<const int8_t*>(ahead), out, stride);
    } else {
      PackColumnPairs(reinterpret_cast<const bf16*>(columns), kv_.block_tokens, dims_.data(), rank,
                      reinterpret_cast<const bf16*>(ahead), out, stride);
    }
  }
  if (position == end) return;
  const size_t columns = GatherTail(position, end);
  const float* tail = thread.tail.data();
  for (size_t i = 0; i < rank; i += 2) {
    for (size_t t = 0; t < columns; ++t) {
      const float second = i + 1 < rank ? tail[(i + 1) * columns + t] : 0.0f;
      thread.pairs.data()[i / 2 * stride + (position - begin) + t] = PairOf(tail[i * columns + t], second);
    }
  }
}

// As Rank, tile by tile, each packed once for all heads.
void SparqTask::RankPairs(int chunk) {
  ThreadScratch& thread = Thread();
  const int tile = PairTile(kv_);
  const int end = RankEnd(chunk);
  thread.sums.Resize(static_cast<size_t>(paired_rows_) * kColumnGroup);
  std::fill_n(thread.sums.data(), thread.sums.size(), 0.0f);
  for (int begin = RankBegin(chunk); begin < end; begin += tile) {
    const int tile_end = std::min(end, begin + tile);
    PackColumns(begin, tile_end);
    WeighColumns(query_pairs_.data(), paired_rows_, (dims_.size() + 1) / 2, thread.pairs.data(), tile, tile_end - begin,
                 references_.data(), weights_.data() + begin, score_stride_, thread.sums.data());
  }
  for (int row = 0; row < stat_rows_; ++row) {
    const float* lanes = thread.sums.data() + static_cast<size_t>(row) * kColumnGroup;
    chunk_sum_[static_cast<size_t>(chunk) * stat_rows_ + row] = std::accumulate(lanes, lanes + kColumnGroup, 0.0f);
  }
}

void SparqTask::Merge() {
  if (pairs_) return MergePairs();
  for (int row = 0; row < stat_rows_; ++row) {
    const RowStatistics whole = MergeChunks(chunk_max_.data() + row, chunk_sum_.data() + row, stat_rows_,
                                            num_rank_chunks_,
                                            chunk_factors_.data() + static_cast<size_t>(row) * num_rank_chunks_);
    row_max_[row] = whole.max;
    row_sum_[row] = whole.sum;
  }
}

void SparqTask::MergePairs() {
  // Above it, factors would leave the range of normal floats.
  constexpr float kMostMass = 0x1p120f;
  pair_factors_.assign(paired_rows_ / 2, 0);
  for (int row = 0; row < stat_rows_; ++row) {
    float sum = 0;
    for (int c = 0; c < num_rank_chunks_; ++c) sum += chunk_sum_[static_cast<size_t>(c) * stat_rows_ + row];
    if (!(sum < kMostMass)) return RankWithoutPairs();
    row_sum_[row] = sum;
  }
  for (int row = 0; row < stat_rows_; row += 2) {
    pair_factors_[row / 2] = PairOf(1.0f / row_sum_[row], row + 1 < stat_rows_ ? 1.0f / row_sum_[row + 1] : 0.0f);
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
  const int begin = RankBegin(chunk), count = RankEnd(chunk) - begin;
  float* combined = ScoreRow(rank_row_) + begin;
  if (pairs_) {
    return SumWeights(weights_.data() + begin, score_stride_, paired_rows_ / 2, pair_factors_.data(), count, combined);
  }
  std::fill_n(combined, count, 0.0f);
  for (int row = 0; row < stat_rows_; ++row) {
    AddScaled(ScoreRow(row) + begin, count, chunk_factors_[static_cast<size_t>(row) * num_rank_chunks_ + chunk],
              combined);
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
  return score * chunk_factors_[static_cast<size_t>(h) * num_rank_chunks_ + position / rank_chunk_tokens_];
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
