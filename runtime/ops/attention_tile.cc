#include "runtime/ops/attention_tile.h"

#include <algorithm>
#include <cmath>

#include "kvcache/check.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/convert.h"

namespace kvasir {
namespace {

// How far ahead to prefetch: 8 KiB is twice what one core receives within the latency of memory.
// Measured on one core at GQA 32/8 x 64: 10.1 ns a token, against 10.8 with 12 KiB and 11.8
// with 16.
constexpr int kPrefetchBytes = 8 << 10;

constexpr float kLog2E = 1.44269504088896340736f;

// Elements of a matrix of `columns` columns that is laid out as panels of `depth` rows.
size_t PanelElements(size_t columns, size_t depth) {
  return (columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns * depth;
}

// Where column `column` (a multiple of kColumnGroup) of row `row` lies in panels of `depth` rows.
size_t PanelOffset(size_t column, size_t row, size_t depth) {
  return (column / kPanelColumns * depth + row) * kPanelColumns + column % kPanelColumns;
}

// c = a * b, b in panels of `panel_depth` rows, of which `depth` are there.
void PanelProduct(const float* a, size_t a_stride, size_t rows, size_t depth, const float* b,
                  size_t panel_depth, size_t columns, float* c, size_t c_stride) {
  for (size_t j = 0; j < columns; j += kPanelColumns) {
    TileProduct(a, a_stride, rows, depth, b + j * panel_depth, kPanelColumns,
                std::min(kPanelColumns, columns - j), c + j, c_stride);
  }
}

// The same over pairs.
void PanelProduct(const uint32_t* a, size_t a_stride, size_t rows, size_t depth, const uint32_t* b,
                  size_t panel_depth, size_t columns, float* c, size_t c_stride) {
  for (size_t j = 0; j < columns; j += kPanelColumns) {
    TileProductPairs(a, a_stride, rows, depth, b + j * panel_depth, kPanelColumns,
                     std::min(kPanelColumns, columns - j), c + j, c_stride);
  }
}

}  // namespace

void AttentionTile::Prepare(TileArithmetic arithmetic, const KvView& kv, int max_rows) {
  arithmetic_ = arithmetic;
  kv_ = kv;
  v_stride_ = static_cast<int>(RoundUpColumns(kv.v_dim));
  const int run_tokens = std::min(kv.block_tokens, static_cast<int>(kPanelColumns));
  const int run_bytes = static_cast<int>(run_tokens * kv.k_dim * KvElementBytes(kv.element_type));
  prefetch_runs_ = std::max(1, kPrefetchBytes / run_bytes);
  const size_t rows = max_rows;
  scores_.Resize(rows * kChunkTokens);
  if (arithmetic == TileArithmetic::kF32) {
    query_rows_.Resize(rows * kv.k_dim);
    keys_.Resize(PanelElements(kChunkTokens, kv.k_dim));
    values_.Resize(PanelElements(v_stride_, kChunkTokens));
  } else {
    KVASIR_CHECK(kv.k_dim % 2 == 0);
    query_pairs_.Resize(rows * kv.k_dim / 2);
    key_pairs_.Resize(PanelElements(kChunkTokens, kv.k_dim / 2));
    value_pairs_.Resize(PanelElements(v_stride_, kChunkTokens / 2));
    weights_.Resize(rows * kChunkTokens);
    key_scales_.Resize(kChunkTokens);
    value_scales_.Resize(kChunkTokens);
  }
  for (auto* mix : {&chunk_mix_, &total_mix_}) mix->Resize(rows * v_stride_);
  for (auto* statistic : {&chunk_max_, &chunk_sum_, &total_max_, &total_sum_})
    statistic->Resize(rows);
}

void AttentionTile::SetQueries(const TileQueries& queries, float softmax_scale) {
  queries_ = queries;
  scale_ = softmax_scale * kLog2E;
  const size_t heads_floats = static_cast<size_t>(queries.group) * kv_.k_dim;
  for (int token = 0; token < queries.num_tokens; ++token) {
    // A group's query heads lie one behind the other.
    const float* from = queries.q.row(queries.first_row + token) +
                        static_cast<size_t>(queries.first_head) * kv_.k_dim;
    if (arithmetic_ == TileArithmetic::kF32) {
      std::copy_n(from, heads_floats, query_rows_.data() + token * heads_floats);
    } else {
      FromFloats(from, heads_floats,
                 reinterpret_cast<bf16*>(query_pairs_.data()) + token * heads_floats);
    }
  }
}

int AttentionTile::RowLimit(int row, int chunk_begin) const {
  const int end = queries_.first_position + row / queries_.group + 1;
  return std::clamp(end - chunk_begin, 0, kChunkTokens);
}

int AttentionTile::Attend(absl::Span<const BlockId> blocks, int kv_head, int chunk,
                          TilePartial out) {
  const int begin = chunk * kChunkTokens;
  const int count =
      RowLimit(queries_.num_rows() - 1, begin);  // positions of the chunk that anyone attends to
  KVASIR_CHECK(count > 0);
  const int first_row = std::max(0, begin - queries_.first_position) * queries_.group;
  ListRuns(blocks, begin, count, &runs_);
  const int next = begin + kChunkTokens;
  ListRuns(blocks, next,
           std::clamp(queries_.end_position() - next, 0, prefetch_runs_ * kv_.block_tokens),
           &next_runs_);
  if (arithmetic_ == TileArithmetic::kF32) {
    AttendF32(runs_, kv_head, begin, count, first_row, out);
  } else {
    AttendBf16(runs_, kv_head, begin, count, first_row, out);
  }
  return first_row;
}

void AttentionTile::AttendF32(absl::Span<const Run> runs, int kv_head, int chunk_begin, int count,
                              int first_row, TilePartial out) {
  const int rows = queries_.num_rows();
  const size_t active = rows - first_row;
  const size_t columns = RoundUpColumns(count);
  for (const Run& run : runs) PackF32(run, kv_head);
  float* scores = scores_.data() + static_cast<size_t>(first_row) * kChunkTokens;
  PanelProduct(query_rows_.data() + static_cast<size_t>(first_row) * kv_.k_dim, kv_.k_dim, active,
               kv_.k_dim, keys_.data(), kv_.k_dim, columns, scores, kChunkTokens);
  for (int r = first_row; r < rows; ++r) {
    float* row = scores_.data() + static_cast<size_t>(r) * kChunkTokens;
    const RowStatistics statistics = SoftmaxRow(row, RowLimit(r, chunk_begin), columns, scale_);
    out.max[r] = statistics.max;
    out.sum[r] = statistics.sum;
  }
  PanelProduct(scores, kChunkTokens, active, count, values_.data(), kChunkTokens, v_stride_,
               out.mix + static_cast<size_t>(first_row) * v_stride_, v_stride_);
}

void AttentionTile::AttendBf16(absl::Span<const Run> runs, int kv_head, int chunk_begin, int count,
                               int first_row, TilePartial out) {
  const int rows = queries_.num_rows();
  const size_t active = rows - first_row;
  const size_t columns = RoundUpColumns(count);
  const size_t k_dim = kv_.k_dim, v_dim = kv_.v_dim, k_pairs = k_dim / 2;
  const bool streamed = active <= kMaxStreamedRows;
  const bool int8 = kv_.element_type == KvElementType::kInt8;
  const uint32_t* queries = query_pairs_.data() + first_row * k_pairs;
  float* scores = scores_.data() + static_cast<size_t>(first_row) * kChunkTokens;
  float* mix = out.mix + static_cast<size_t>(first_row) * v_stride_;

  for (size_t i = 0; i < runs.size(); ++i) {
    const Run& run = runs[i];
    const void* ahead = Ahead(runs, kv_head, i);
    const uint8_t* keys = KeyRows(run, kv_head);
    uint32_t* packed = key_pairs_.data() + PanelOffset(run.offset, 0, k_pairs);
    if (int8) {
      PrefetchScales(runs, kv_head, i + prefetch_runs_);
      GatherScales(run, kv_head);
      const auto* s8 = reinterpret_cast<const int8_t*>(keys);
      if (streamed) {
        ScoreKeys(s8, run.count, k_dim, ahead, queries, active, scores + run.offset, kChunkTokens);
      } else {
        PackKeyPairs(s8, run.count, k_dim, ahead, packed, kPanelColumns);
      }
    } else {
      const auto* narrow = reinterpret_cast<const bf16*>(keys);
      if (streamed) {
        ScoreKeys(narrow, run.count, k_dim, ahead, queries, active, scores + run.offset,
                  kChunkTokens);
      } else {
        PackKeyPairs(narrow, run.count, k_dim, ahead, packed, kPanelColumns);
      }
    }
  }
  if (!streamed) {
    PanelProduct(queries, k_pairs, active, k_pairs, key_pairs_.data(), k_pairs, columns, scores,
                 kChunkTokens);
  }

  for (int r = first_row; r < rows; ++r) {
    float* row = scores_.data() + static_cast<size_t>(r) * kChunkTokens;
    bf16* weights = weights_.data() + static_cast<size_t>(r) * kChunkTokens;
    const int limit = RowLimit(r, chunk_begin);
    const RowStatistics statistics =
        int8 ? SoftmaxRowBf16(row, limit, columns, scale_, key_scales_.data(), value_scales_.data(),
                              weights)
             : SoftmaxRowBf16(row, limit, columns, scale_, weights);
    out.max[r] = statistics.max;
    out.sum[r] = statistics.sum;
  }

  const auto* weights = reinterpret_cast<const uint32_t*>(weights_.data()) +
                        static_cast<size_t>(first_row) * kChunkTokens / 2;
  if (streamed) std::fill_n(mix, active * v_stride_, 0.0f);
  for (size_t i = 0; i < runs.size(); ++i) {
    const Run& run = runs[i];
    const void* ahead = Ahead(runs, kv_head, runs.size() + i);
    const uint8_t* values = ValueRows(run, kv_head);
    const size_t pair = run.offset / 2;
    uint32_t* packed = value_pairs_.data() + PanelOffset(0, pair, kChunkTokens / 2);
    constexpr size_t kPanelStride = kChunkTokens / 2 * kPanelColumns;
    if (int8) {
      const auto* s8 = reinterpret_cast<const int8_t*>(values);
      if (streamed) {
        MixValues(s8, run.count, v_dim, ahead, weights + pair, kChunkTokens / 2, active, mix,
                  v_stride_);
      } else {
        PackValuePairs(s8, run.count, v_dim, ahead, packed, kPanelStride);
      }
    } else {
      const auto* narrow = reinterpret_cast<const bf16*>(values);
      if (streamed) {
        MixValues(narrow, run.count, v_dim, ahead, weights + pair, kChunkTokens / 2, active, mix,
                  v_stride_);
      } else {
        PackValuePairs(narrow, run.count, v_dim, ahead, packed, kPanelStride);
      }
    }
  }
  if (!streamed) {
    PanelProduct(weights, kChunkTokens / 2, active, (count + 1) / 2, value_pairs_.data(),
                 kChunkTokens / 2, v_stride_, mix, v_stride_);
  }
}

// A block may hold several chunks or a part of one, but both begin at multiples of 16 positions, so
// every run but the last is whole column groups.
void AttentionTile::ListRuns(absl::Span<const BlockId> blocks, int begin, int count,
                             std::vector<Run>* runs) const {
  runs->clear();
  for (int offset = 0; offset < count;) {
    const int position = begin + offset;
    const int slot = position % kv_.block_tokens;
    const int panel_rest = static_cast<int>(kPanelColumns - offset % kPanelColumns);
    const int length = std::min({count - offset, kv_.block_tokens - slot, panel_rest});
    runs->push_back({blocks[position / kv_.block_tokens], slot, offset, length});
    offset += length;
  }
}

const uint8_t* AttentionTile::KeyRows(const Run& run, int kv_head) const {
  return kv_.K(run.block, kv_head) +
         static_cast<size_t>(run.slot) * kv_.k_dim * KvElementBytes(kv_.element_type);
}

const uint8_t* AttentionTile::ValueRows(const Run& run, int kv_head) const {
  return kv_.V(run.block, kv_head) +
         static_cast<size_t>(run.slot) * kv_.v_dim * KvElementBytes(kv_.element_type);
}

const void* AttentionTile::Ahead(absl::Span<const Run> runs, int kv_head, size_t index) const {
  const size_t target = index + prefetch_runs_;
  if (target < runs.size()) return KeyRows(runs[target], kv_head);
  if (target < 2 * runs.size()) return ValueRows(runs[target - runs.size()], kv_head);
  const size_t next = target - 2 * runs.size();
  return next < next_runs_.size() ? KeyRows(next_runs_[next], kv_head) : nullptr;
}

// A run's scales are two or four lines of their own, read by nothing that prefetches.
void AttentionTile::PrefetchScales(absl::Span<const Run> runs, int kv_head, size_t index) const {
  const size_t next = index - runs.size();
  const Run* run = index < runs.size()        ? &runs[index]
                   : next < next_runs_.size() ? &next_runs_[next]
                                              : nullptr;
  if (run == nullptr) return;
  for (int i = 0; i < run->count; i += 64 / sizeof(float)) {
    __builtin_prefetch(kv_.KScale(run->block, kv_head) + run->slot + i);
    __builtin_prefetch(kv_.VScale(run->block, kv_head) + run->slot + i);
  }
}

void AttentionTile::GatherScales(const Run& run, int kv_head) {
  const auto gather = [&run](const float* from, float* to) {
    std::copy_n(from + run.slot, run.count, to + run.offset);
    std::fill(to + run.offset + run.count, to + run.offset + RoundUpColumns(run.count), 0.0f);
  };
  gather(kv_.KScale(run.block, kv_head), key_scales_.data());
  gather(kv_.VScale(run.block, kv_head), value_scales_.data());
}

void AttentionTile::PackF32(const Run& run, int kv_head) {
  const uint8_t* keys = KeyRows(run, kv_head);
  const size_t k_dim = kv_.k_dim;
  float* key_columns = keys_.data() + PanelOffset(run.offset, 0, k_dim);
  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
  switch (kv_.element_type) {
    case KvElementType::kF32:
      PackKeys(reinterpret_cast<const float*>(keys), run.count, k_dim, key_columns, kPanelColumns);
      break;
    case KvElementType::kBf16:
      PackKeys(reinterpret_cast<const bf16*>(keys), run.count, k_dim, key_columns, kPanelColumns);
      break;
    case KvElementType::kF16:
      PackKeys(reinterpret_cast<const f16*>(keys), run.count, k_dim, key_columns, kPanelColumns);
      break;
    case KvElementType::kInt8:
      k_scales = kv_.KScale(run.block, kv_head) + run.slot;
      v_scales = kv_.VScale(run.block, kv_head) + run.slot;
      PackKeys(reinterpret_cast<const int8_t*>(keys), k_scales, run.count, k_dim, key_columns,
               kPanelColumns);
      break;
  }

  const uint8_t* values = ValueRows(run, kv_head);
  const size_t v_dim = kv_.v_dim;
  for (int t = 0; t < run.count; ++t) {
    for (size_t j = 0; j < v_dim; j += kPanelColumns) {
      const size_t width = std::min(kPanelColumns, v_dim - j);
      const size_t at = t * v_dim + j;
      float* out = values_.data() + PanelOffset(j, run.offset + t, kChunkTokens);
      switch (kv_.element_type) {
        case KvElementType::kF32:
          std::copy_n(reinterpret_cast<const float*>(values) + at, width, out);
          break;
        case KvElementType::kBf16:
          ToFloats(reinterpret_cast<const bf16*>(values) + at, width, out);
          break;
        case KvElementType::kF16:
          ToFloats(reinterpret_cast<const f16*>(values) + at, width, out);
          break;
        case KvElementType::kInt8:
          ToFloats(reinterpret_cast<const int8_t*>(values) + at, width, v_scales[t], out);
          break;
      }
      std::fill(out + width, out + RoundUpColumns(width), 0.0f);
    }
  }
}

void AttentionTile::Merge(const TilePartial& part, int first_row, int end_row, int v_stride,
                          TilePartial whole) {
  for (int r = first_row; r < end_row; ++r) {
    if (part.sum[r] == 0.0f) continue;
    const float* from = part.mix + static_cast<size_t>(r) * v_stride;
    float* to = whole.mix + static_cast<size_t>(r) * v_stride;
    if (whole.sum[r] == 0.0f) {
      std::copy_n(from, v_stride, to);
      whole.max[r] = part.max[r];
      whole.sum[r] = part.sum[r];
      continue;
    }
    // The smaller maximum's side is scaled down to the larger one's; the other keeps its weights.
    const float difference = part.max[r] - whole.max[r];
    const float factor = Exp2Scalar(-std::abs(difference));
    const float whole_factor = difference > 0 ? factor : 1.0f;
    const float part_factor = difference > 0 ? 1.0f : factor;
    BlendRow(to, whole_factor, from, part_factor, v_stride);
    whole.sum[r] = whole.sum[r] * whole_factor + part.sum[r] * part_factor;
    whole.max[r] = std::max(whole.max[r], part.max[r]);
  }
}

}  // namespace kvasir
