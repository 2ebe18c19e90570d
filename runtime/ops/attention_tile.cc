#include "runtime/ops/attention_tile.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/convert.h"
#include "runtime/kernels/score_kernels.h"

namespace kvasir {
namespace {

// How far ahead to prefetch: 8 KiB is twice what one core receives within the latency of memory.
// Measured on one core at GQA 32/8 x 64: 10.1 ns a token, against 10.8 with 12 KiB and 11.8
// with 16.
constexpr int kPrefetchBytes = 8 << 10;

constexpr float kLog2E = 1.44269504088896340736f;

}  // namespace

TileArithmetic ChooseTileArithmetic(ComputeType compute_type, const KvView& kv) {
  if (compute_type == ComputeType::kF32 || !HasBf16Products()) return TileArithmetic::kF32;
  if (kv.element_type == KvElementType::kInt8) return TileArithmetic::kInt8;
  const bool bf16_pairs = kv.element_type == KvElementType::kBf16 && kv.k_dim % 2 == 0;
  return bf16_pairs ? TileArithmetic::kBf16 : TileArithmetic::kF32;
}

// Packing costs about as much as 6 rows' products with AVX-512, and as some 60 with AMX.
int MaxTileRows(TileArithmetic arithmetic) {
  return arithmetic != TileArithmetic::kF32 && HasAmxProducts() ? 128 : 64;
}

void AttentionTile::Prepare(TileArithmetic arithmetic, const KvView& kv, int max_rows) {
  arithmetic_ = arithmetic;
  amx_ = arithmetic != TileArithmetic::kF32 && HasAmxProducts();
  kv_ = kv;
  v_stride_ = static_cast<int>(RoundUpColumns(kv.v_dim));
  const int run_tokens = std::min(kv.block_tokens, static_cast<int>(kPanelColumns));
  const int run_bytes = static_cast<int>(run_tokens * kv.k_dim * KvElementBytes(kv.element_type));
  prefetch_runs_ = std::max(1, kPrefetchBytes / run_bytes);
  // AMX reads and writes whole tiles of rows, from whichever row is the first of a chunk.
  const size_t rows = amx_ ? max_rows + kAmxRows : max_rows;
  const size_t k_dim = kv.k_dim;
  switch (arithmetic) {
    case TileArithmetic::kF32:
      query_rows_.Resize(rows * k_dim);
      keys_.Resize(k_dim * kPanelColumns);
      values_.Resize(kChunkTokens * kPanelColumns);
      scores_.Resize(rows * kChunkTokens);
      break;
    case TileArithmetic::kBf16:
      KVASIR_CHECK(kv.element_type == KvElementType::kBf16 && k_dim % 2 == 0);
      ResizeWords(rows, k_dim / 2);
      scores_.Resize(rows * kChunkTokens);
      break;
    case TileArithmetic::kInt8:
      KVASIR_CHECK(kv.element_type == KvElementType::kInt8);
      ResizeWords(rows, (k_dim + 3) / 4);
      scores_.Resize(kChunkTokens);
      query_scales_.Resize(rows);
      weight_steps_.Resize(rows);
      dot_offsets_.Resize(rows);
      key_scales_.Resize(kChunkTokens);
      value_scales_.Resize(kChunkTokens);
      dots_.Resize(rows * kChunkTokens);
      mix_sums_.Resize(rows * v_stride_);
      break;
  }
  for (auto* mix : {&chunk_mix_, &total_mix_}) mix->Resize(rows * v_stride_);
  for (auto* statistic : {&chunk_max_, &chunk_sum_, &total_max_, &total_sum_})
    statistic->Resize(rows);
}

void AttentionTile::ResizeWords(size_t rows, size_t key_words) {
  key_words_per_row_ = amx_ ? RoundUpAmx(key_words) : key_words;
  query_words_.Resize(rows * key_words_per_row_);
  key_words_.Resize(key_words_per_row_ * kPanelColumns);
  std::fill(key_words_.data() + key_words * kPanelColumns,
            key_words_.data() + key_words_per_row_ * kPanelColumns, 0u);
  value_words_.Resize(kChunkTokens / 2 * (amx_ ? v_stride_ : kPanelColumns));
  weight_words_.Resize(rows * kChunkTokens / 2);
  if (!amx_) return;
  query_columns_.Resize(key_words_per_row_ * kMaxAmxStreamedRows);
  few_scores_.Resize(kChunkTokens * kMaxAmxStreamedRows);
  few_mixes_.Resize(kMaxAmxStreamedRows * v_stride_);
  if (arithmetic_ == TileArithmetic::kInt8) {
    high_weights_.Resize(rows * kChunkTokens / 4);
    low_weights_.Resize(rows * kChunkTokens / 4);
  }
}

size_t AttentionTile::PaddedPositions(int count) const {
  if (!amx_) return RoundUpColumns(count);
  const size_t step = kAmxWords * (arithmetic_ == TileArithmetic::kInt8 ? 4 : 2);
  return (count + step - 1) / step * step;
}

void AttentionTile::SetQueries(const TileQueries& queries, const AttentionRules& rules) {
  queries_ = queries;
  rules_ = rules;
  scale_ = rules.scale * kLog2E;
  const size_t k_dim = kv_.k_dim, heads_floats = queries.group * k_dim;
  for (int token = 0; token < queries.num_tokens; ++token) {
    // A group's query heads lie one behind the other.
    const float* from = queries.q.row(queries.first_row + token) + queries.first_head * k_dim;
    switch (arithmetic_) {
      case TileArithmetic::kF32:
        std::copy_n(from, heads_floats, query_rows_.data() + token * heads_floats);
        break;
      case TileArithmetic::kBf16:
        for (int head = 0; head < queries.group; ++head) {
          const size_t row = token * queries.group + head;
          auto* to = reinterpret_cast<bf16*>(query_words_.data() + row * key_words_per_row_);
          FromFloats(from + head * k_dim, k_dim, to);
          std::fill(to + k_dim, to + 2 * key_words_per_row_, bf16{});
        }
        break;
      case TileArithmetic::kInt8:
        for (int head = 0; head < queries.group; ++head) {
          QuantizeQuery(token * queries.group + head, from + head * k_dim);
        }
        break;
    }
  }
}

void AttentionTile::QuantizeQuery(int row, const float* query) {
  const size_t k_dim = kv_.k_dim, padded = 4 * key_words_per_row_;
  auto* bytes = reinterpret_cast<int8_t*>(query_words_.data() + row * key_words_per_row_);
  query_scales_[row] = QuantizeS8(query, k_dim, 127, bytes);
  std::fill(bytes + k_dim, bytes + padded, int8_t{0});
  dot_offsets_[row] = 128 * std::accumulate(bytes, bytes + k_dim, 0);
}

AttentionTile::Sight AttentionTile::SightOf(int row, int chunk_begin) const {
  const int position = TokenPosition(row);
  Sight sight;
  sight.begin = std::clamp(rules_.FirstSeen(position) - chunk_begin, 0, kChunkTokens);
  sight.end = std::clamp(position + 1 - chunk_begin, 0, kChunkTokens);
  sight.aligned = sight.begin - sight.begin % static_cast<int>(kColumnGroup);
  return sight;
}

void AttentionTile::ShapeScores(int row, const Chunk& chunk, const Sight& sight, float scale,
                                float* scores) const {
  const size_t n = sight.count();
  float factor = scale;
  if (rules_.softcap > 0) {
    CapScores(scores, n, scale, rules_.softcap);
    factor = 1.0f;
  }
  if (rules_.alibi_slopes == nullptr) {
    SlopeScores(scores, n, factor * kLog2E, 0.0f, 0.0f);
  } else {
    const float slope = rules_.alibi_slopes[queries_.first_head + row % queries_.group];
    const int first = chunk.begin + sight.aligned, position = TokenPosition(row);
    if (!rules_.alibi_rounded) {
      SlopeScores(scores, n, factor * kLog2E, slope * kLog2E, static_cast<float>(first - position));
    } else {
      const float narrow = ToFloat(ToBf16(slope));
      const auto bias = [narrow](int at) {
        return ToFloat(ToBf16(narrow * static_cast<float>(at)));
      };
      const float own = bias(position);
      for (size_t i = 0; i < n; ++i) {
        const float distance = bias(first + static_cast<int>(i)) - own;
        scores[i] = (scores[i] * factor + distance * rules_.scale) * kLog2E;
      }
    }
  }
  std::fill_n(scores, sight.begin - sight.aligned, -std::numeric_limits<float>::infinity());
}

TileRows AttentionTile::Attend(absl::Span<const BlockId> blocks, int kv_head, int chunk,
                               TilePartial out) {
  Chunk at{blocks, kv_head, chunk * kChunkTokens, 0, 0, {}, 0};
  const int first_position = queries_.first_position;
  at.rows.begin = std::max(0, at.begin - first_position) * queries_.group;
  at.rows.end = queries_.num_rows();
  if (rules_.window > 0) {
    // Tokens whose window begins behind the chunk see nothing of it.
    const int64_t seeing = int64_t{at.begin} + kChunkTokens + rules_.window - 1 - first_position;
    at.rows.end = static_cast<int>(std::min<int64_t>(queries_.num_tokens, seeing)) * queries_.group;
  }
  KVASIR_CHECK(at.rows.begin < at.rows.end);
  at.skip = SightOf(at.rows.begin, at.begin).aligned;
  at.start = amx_ ? at.skip - at.skip % static_cast<int>(kPanelColumns) : at.skip;
  at.count = SightOf(at.rows.end - 1, at.begin).end;
  ListRuns(blocks, at.begin, at.skip, at.count, &runs_);
  const int next = at.begin + kChunkTokens;
  ListRuns(blocks, next, 0, std::clamp(queries_.end_position() - next, 0, kChunkTokens),
           &next_runs_);
  switch (arithmetic_) {
    case TileArithmetic::kF32:
      AttendF32(at, out);
      break;
    case TileArithmetic::kBf16:
      AttendBf16(at, out);
      break;
    case TileArithmetic::kInt8:
      AttendInt8(at, out);
      break;
  }
  return at.rows;
}

// A block may hold several chunks or a part of one, but both begin at multiples of 16 positions, so
// every run but the last is whole column groups.
void AttentionTile::ListRuns(absl::Span<const BlockId> blocks, int begin, int skip, int count,
                             std::vector<Run>* runs) const {
  runs->clear();
  for (int offset = skip; offset < count;) {
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
         static_cast<size_t>(run.slot) * kv_.v_stride * KvElementBytes(kv_.element_type);
}

const void* AttentionTile::Ahead(int kv_head, size_t index) const {
  const size_t target = index + prefetch_runs_;
  if (target < runs_.size()) return KeyRows(runs_[target], kv_head);
  if (target < 2 * runs_.size()) return ValueRows(runs_[target - runs_.size()], kv_head);
  const size_t next = target - 2 * runs_.size();
  return next < next_runs_.size() ? KeyRows(next_runs_[next], kv_head) : nullptr;
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
