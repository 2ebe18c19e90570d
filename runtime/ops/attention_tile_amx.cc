// A tile's two products on AMX (amx_attention_kernels.h).
#include <algorithm>

#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/ops/attention_tile.h"

namespace kvasir {

// scores: [num_rows][kChunkTokens].
template <typename T, typename Sum>
void AttentionTile::ScoreChunkAmx(const Chunk& chunk, Sum* scores) {
  const size_t first = chunk.rows.begin, active = chunk.active();
  const size_t columns = RoundUpColumns(chunk.count), words = key_words_per_row_;
  const uint32_t* queries = query_words_.data() + first * words;
  scores += first * kChunkTokens;
  // Few rows, as in decode: K is multiplied as it lies, for packing would take longer.
  if (active <= kMaxAmxStreamedRows) {
    constexpr size_t kStride = kChunkTokens * kAmxRows;
    Sum* const sums = reinterpret_cast<Sum*>(few_scores_.data());
    AmxQueryColumns(queries, words, active, words, query_columns_.data());
    for (size_t i = 0; i < runs_.size(); ++i) {
      AmxScoreKeys(reinterpret_cast<const T*>(KeyRows(runs_[i], chunk.kv_head)), runs_[i].count,
                   kv_.k_dim, Ahead(chunk.kv_head, i), query_columns_.data(), active,
                   sums + runs_[i].offset * kAmxRows, kStride);
    }
    AmxScoreRows(sums, kStride, active, columns, scores, kChunkTokens);
    return;
  }
  ListUpcoming(chunk.kv_head);
  ForEachKeyPanel([&](size_t begin, size_t end, size_t column) {
    PackKeyPanel<T>(chunk.kv_head, begin, end);
    const size_t in_panel = column % kPanelColumns;
    AmxProduct(queries, words, active, words, key_words_.data() + in_panel, kPanelColumns,
               std::min(kPanelColumns - in_panel, columns - column), scores + column, kChunkTokens,
               /*accumulate=*/false, &upcoming_);
  });
}

// mix: [num_rows][v_stride].
template <typename T, typename Sum>
void AttentionTile::MixChunkAmx(const Chunk& chunk, Sum* mix) {
  const size_t active = chunk.active(), start = chunk.start;
  const size_t padded = PaddedPositions(chunk.count);
  constexpr size_t kWordPositions = sizeof(T) == 2 ? 2 : 4;
  const auto pack = [&](size_t run_index, size_t begin) {
    const Run& run = runs_[run_index];
    const size_t end = run_index + 1 < runs_.size() ? run.count : padded - run.offset;
    AmxPackValues(reinterpret_cast<const T*>(ValueRows(run, chunk.kv_head)), run.count, end,
                  kv_.v_stride, kv_.v_dim, Ahead(chunk.kv_head, runs_.size() + run_index),
                  value_words_.data() + (run.offset - begin) / kWordPositions * v_stride_);
  };
  SplitWeightRows(chunk, Sum{});
  mix += static_cast<size_t>(chunk.rows.begin) * v_stride_;
  // What nobody sees of the first words has weights of 0, and must be numbers.
  std::fill_n(value_words_.data(), (chunk.skip - start) / kWordPositions * v_stride_, 0u);
  if (active > kMaxAmxStreamedRows) {
    for (size_t i = 0; i < runs_.size(); ++i) pack(i, start);
    MixWords(chunk.rows.begin, active, start, padded, mix, /*accumulate=*/false);
    return;
  }
  // Few rows: the packed values of a panel's positions are used while they are in the first cache
  // level.
  upcoming_.Clear();
  Sum* const few = reinterpret_cast<Sum*>(few_mixes_.data());
  for (size_t i = 0; i < runs_.size();) {
    const size_t begin = runs_[i].offset / kPanelColumns * kPanelColumns;
    size_t end = std::min(padded, begin + kPanelColumns);
    for (; i < runs_.size() && static_cast<size_t>(runs_[i].offset) < end; ++i) pack(i, begin);
    MixWords(chunk.rows.begin, RoundUpAmx(active), begin, end, few,
             /*accumulate=*/begin > start);
  }
  std::copy_n(few, active * v_stride_, mix);
}

void AttentionTile::MixWords(size_t first_row, size_t rows, size_t begin, size_t end, float* mix,
                             bool accumulate) {
  constexpr size_t kStride = kChunkTokens / 2;
  AmxProduct(weight_words_.data() + first_row * kStride + begin / 2, kStride, rows,
             (end - begin) / 2, value_words_.data(), v_stride_, v_stride_, mix, v_stride_,
             accumulate, &upcoming_);
}

void AttentionTile::MixWords(size_t first_row, size_t rows, size_t begin, size_t end, int32_t* mix,
                             bool accumulate) {
  constexpr size_t kStride = kChunkTokens / 4;
  const size_t at = first_row * kStride + begin / 4;
  AmxWeightProduct(high_weights_.data() + at, low_weights_.data() + at, kStride, rows,
                   (end - begin) / 4, value_words_.data(), v_stride_, v_stride_, mix, v_stride_,
                   accumulate, &upcoming_);
}

void AttentionTile::SplitWeightRows(const Chunk&, float) {}

void AttentionTile::SplitWeightRows(const Chunk& chunk, int32_t) {
  constexpr size_t kStride = kChunkTokens / 4;
  const auto* weights = reinterpret_cast<const int16_t*>(weight_words_.data());
  const size_t first_word = chunk.start / 4, count = PaddedPositions(chunk.count) - chunk.start;
  for (int r = chunk.rows.begin; r < chunk.rows.end; ++r) {
    SplitWeights(weights + static_cast<size_t>(r) * kChunkTokens + chunk.start, count,
                 reinterpret_cast<int8_t*>(high_weights_.data() + r * kStride + first_word),
                 reinterpret_cast<uint8_t*>(low_weights_.data() + r * kStride + first_word));
  }
}

template void AttentionTile::ScoreChunkAmx<bf16, float>(const Chunk&, float*);
template void AttentionTile::ScoreChunkAmx<int8_t, int32_t>(const Chunk&, int32_t*);
template void AttentionTile::MixChunkAmx<bf16, float>(const Chunk&, float*);
template void AttentionTile::MixChunkAmx<int8_t, int32_t>(const Chunk&, int32_t*);

}  // namespace kvasir
