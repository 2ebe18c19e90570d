// A tile on AVX-512's dot products, over bf16 or int8 K and V (bf16_attention_kernels.h). Where the
// CPU has AMX, attention_tile_amx.cc multiplies, and what is here is between the products.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/convert.h"
#include "runtime/ops/attention_tile.h"

namespace kvasir {
namespace {

// Of a chunk: they begin at multiples of column groups.
constexpr size_t kMostRuns = kChunkTokens / kColumnGroup;

}  // namespace

template <typename T>
absl::Span<const RowRun<T>> AttentionTile::RowRuns(int kv_head, bool values, RowRun<T>* out) const {
  KVASIR_CHECK(runs_.size() <= kMostRuns);
  for (size_t i = 0; i < runs_.size(); ++i) {
    const uint8_t* rows = values ? ValueRows(runs_[i], kv_head) : KeyRows(runs_[i], kv_head);
    const void* ahead = Ahead(kv_head, values ? runs_.size() + i : i);
    out[i] = {reinterpret_cast<const T*>(rows), static_cast<size_t>(runs_[i].count),
              static_cast<const T*>(ahead)};
  }
  return {out, runs_.size()};
}

// scores: [num_rows][kChunkTokens].
template <typename T, typename Sum>
void AttentionTile::ScoreChunk(const Chunk& chunk, Sum* scores) {
  const size_t first = chunk.rows.begin, active = chunk.active();
  const size_t columns = RoundUpColumns(chunk.count), words = key_words_per_row_;
  const uint32_t* queries = query_words_.data() + first * words;
  scores += first * kChunkTokens;
  if (active <= kMaxStreamedRows) {
    RowRun<T> rows[kMostRuns];
    ScoreKeys(RowRuns(chunk.kv_head, /*values=*/false, rows), kv_.k_dim, queries, active,
              scores + chunk.skip, kChunkTokens);
    return;
  }
  ListUpcoming(chunk.kv_head);
  ForEachKeyPanel([&](size_t begin, size_t end, size_t column) {
    PackKeyPanel<T>(chunk.kv_head, begin, end);
    const size_t in_panel = column % kPanelColumns;
    KeyProduct(queries, words, active, words, key_words_.data() + in_panel, kPanelColumns,
               std::min(kPanelColumns - in_panel, columns - column), scores + column, kChunkTokens,
               &upcoming_);
  });
}

template <typename T>
void AttentionTile::PackKeyPanel(int kv_head, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    PackKeyWords(reinterpret_cast<const T*>(KeyRows(runs_[i], kv_head)), runs_[i].count, kv_.k_dim,
                 Ahead(kv_head, i), key_words_.data() + runs_[i].offset % kPanelColumns,
                 kPanelColumns);
  }
}

template void AttentionTile::PackKeyPanel<bf16>(int, size_t, size_t);
template void AttentionTile::PackKeyPanel<int8_t>(int, size_t, size_t);

void AttentionTile::ListUpcoming(int kv_head) {
  const size_t element_bytes = KvElementBytes(kv_.element_type);
  upcoming_.Clear();
  for (const Run& run : next_runs_)
    upcoming_.Add(KeyRows(run, kv_head), run.count * kv_.k_dim * element_bytes);
  for (const Run& run : next_runs_)
    upcoming_.Add(ValueRows(run, kv_head), run.count * kv_.v_stride * element_bytes);
}

// mix: [num_rows][v_stride].
template <typename T, typename Sum>
void AttentionTile::MixChunk(const Chunk& chunk, Sum* mix) {
  const size_t first = chunk.rows.begin, active = chunk.active();
  const size_t v_dim = kv_.v_dim, skipped_words = chunk.start / 2;
  constexpr size_t kStride = kChunkTokens / 2;
  const uint32_t* weights = weight_words_.data() + first * kStride;
  mix += first * v_stride_;
  const auto values_of = [&](const Run& run) {
    return reinterpret_cast<const T*>(ValueRows(run, chunk.kv_head));
  };
  if (active <= kMaxStreamedRows) {
    RowRun<T> rows[kMostRuns];
    MixValues(RowRuns(chunk.kv_head, /*values=*/true, rows), kv_.v_stride, v_dim,
              weights + skipped_words, kStride, active, mix, v_stride_);
    return;
  }
  for (size_t column = 0; column < v_dim; column += kPanelColumns) {
    const size_t width = std::min(kPanelColumns, v_dim - column);
    for (size_t i = 0; i < runs_.size(); ++i) {
      const void* ahead = Ahead(chunk.kv_head, runs_.size() + i);
      PackValueWords(values_of(runs_[i]) + column, runs_[i].count, kv_.v_stride, width,
                     ahead == nullptr ? nullptr : static_cast<const T*>(ahead) + column,
                     value_words_.data() + runs_[i].offset / 2 * kPanelColumns);
    }
    ValueProduct(weights + skipped_words, kStride, active, (chunk.count + 1) / 2 - skipped_words,
                 value_words_.data() + skipped_words * kPanelColumns, kPanelColumns,
                 RoundUpColumns(width), mix + column, v_stride_, &upcoming_);
  }
}

void AttentionTile::AttendBf16(const Chunk& chunk, TilePartial out) {
  const size_t columns = PaddedPositions(chunk.count);
  if (amx_) ConfigureAmxTiles();
  amx_ ? ScoreChunkAmx<bf16>(chunk, scores_.data()) : ScoreChunk<bf16>(chunk, scores_.data());
  for (int r = chunk.rows.begin; r < chunk.rows.end; ++r) {
    float* scores = scores_.data() + static_cast<size_t>(r) * kChunkTokens;
    bf16* weights =
        reinterpret_cast<bf16*>(weight_words_.data()) + static_cast<size_t>(r) * kChunkTokens;
    const Sight sight = SightOf(r, chunk.begin);
    const bool shaped = NeedsShaping(sight);
    if (shaped) ShapeScores(r, chunk, sight, rules_.scale, scores + sight.aligned);
    std::fill(weights + chunk.start, weights + sight.aligned, bf16{0});
    const RowStatistics statistics =
        SoftmaxRowBf16(scores + sight.aligned, sight.count(), columns - sight.aligned,
                       shaped ? 1.0f : scale_, weights + sight.aligned);
    out.max[r] = statistics.max;
    out.sum[r] = statistics.sum;
  }
  amx_ ? MixChunkAmx<bf16>(chunk, out.mix) : MixChunk<bf16>(chunk, out.mix);
  if (amx_) ReleaseAmxTiles();
}

void AttentionTile::AttendInt8(const Chunk& chunk, TilePartial out) {
  const size_t columns = PaddedPositions(chunk.count);
  if (amx_) ConfigureAmxTiles();
  GatherScales(chunk);
  amx_ ? ScoreChunkAmx<int8_t>(chunk, dots_.data()) : ScoreChunk<int8_t>(chunk, dots_.data());
  // A few queries' products on AMX take keys as they are, without 128 more.
  const bool has_offset = !amx_ || chunk.active() > kMaxAmxStreamedRows;
  for (int r = chunk.rows.begin; r < chunk.rows.end; ++r) {
    const int32_t* dots = dots_.data() + static_cast<size_t>(r) * kChunkTokens;
    int16_t* weights =
        reinterpret_cast<int16_t*>(weight_words_.data()) + static_cast<size_t>(r) * kChunkTokens;
    const int32_t offset = has_offset ? dot_offsets_[r] : 0;
    const Sight sight = SightOf(r, chunk.begin);
    const size_t at = sight.aligned, padded = columns - at;
    std::fill(weights + chunk.start, weights + at, int16_t{0});
    Int8RowStatistics statistics;
    if (NeedsShaping(sight)) {
      ScoreRowInt8(dots + at, offset, sight.count(), query_scales_[r], key_scales_.data() + at,
                   scores_.data());
      ShapeScores(r, chunk, sight, rules_.scale, scores_.data());
      statistics = WeighRowInt8(sight.count(), padded, value_scales_.data() + at, scores_.data(),
                                weights + at);
    } else {
      statistics = SoftmaxRowInt8(dots + at, offset, sight.count(), padded,
                                  scale_ * query_scales_[r], key_scales_.data() + at,
                                  value_scales_.data() + at, scores_.data(), weights + at);
    }
    out.max[r] = statistics.max;
    out.sum[r] = statistics.sum;
    weight_steps_[r] = statistics.step;
  }
  amx_ ? MixChunkAmx<int8_t>(chunk, mix_sums_.data()) : MixChunk<int8_t>(chunk, mix_sums_.data());
  if (amx_) ReleaseAmxTiles();
  for (int r = chunk.rows.begin; r < chunk.rows.end; ++r) {
    const size_t at = static_cast<size_t>(r) * v_stride_;
    ToFloats(mix_sums_.data() + at, v_stride_, weight_steps_[r], out.mix + at);
  }
}

// The next chunk's scales are asked for meanwhile: they are a few lines of their own in each block,
// which nothing else fetches.
void AttentionTile::GatherScales(const Chunk& chunk) {
  for (const Run& run : runs_) {
    const float* key_scales = kv_.KScale(run.block, chunk.kv_head) + run.slot;
    const float* value_scales = kv_.VScale(run.block, chunk.kv_head) + run.slot;
    for (int t = 0; t < run.count; t += kColumnGroup) {
      constexpr size_t kBytes = kColumnGroup * sizeof(float);  // known to the compiler: no call
      std::memcpy(key_scales_.data() + run.offset + t, key_scales + t, kBytes);
      std::memcpy(value_scales_.data() + run.offset + t, value_scales + t, kBytes);
    }
  }
  for (const Run& run : next_runs_) {
    for (int i = 0; i < run.count; i += 64 / sizeof(float)) {
      __builtin_prefetch(kv_.KScale(run.block, chunk.kv_head) + run.slot + i);
      __builtin_prefetch(kv_.VScale(run.block, chunk.kv_head) + run.slot + i);
    }
  }
}

}  // namespace kvasir
