// A tile in f32, whatever K and V are stored in.
#include <algorithm>

#include "runtime/kernels/convert.h"
#include "runtime/kernels/streams/f32_streaming_kernels.h"
#include "runtime/ops/attention_tile.h"

namespace kvasir {

void AttentionTile::AttendF32(const Chunk& chunk, TilePartial out) {
  const size_t first = chunk.rows.begin, active = chunk.active();
  const size_t k_dim = kv_.k_dim, v_dim = kv_.v_dim, columns = RoundUpColumns(chunk.count);
  const float* queries = query_rows_.data() + first * k_dim;
  float* scores = scores_.data() + first * kChunkTokens;
  const bool int8 = kv_.element_type == KvElementType::kInt8;
  const bool streams =
      (int8 || kv_.element_type == KvElementType::kBf16) && StreamsF32(active, k_dim, v_dim);
  if (streams) {
    for (size_t i = 0; i < runs_.size(); ++i) {
      const Run& run = runs_[i];
      const uint8_t* const keys = KeyRows(run, chunk.kv_head);
      const void* const ahead = Ahead(chunk.kv_head, i);
      if (int8) {
        StreamKeys(reinterpret_cast<const int8_t*>(keys),
                   kv_.KScale(run.block, chunk.kv_head) + run.slot, run.count, k_dim, ahead,
                   queries, active, scores + run.offset, kChunkTokens);
      } else {
        StreamKeys(reinterpret_cast<const bf16*>(keys), run.count, k_dim, ahead, queries, active,
                   scores + run.offset, kChunkTokens);
      }
    }
  } else {
    ForEachKeyPanel([&](size_t begin, size_t end, size_t column) {
      for (size_t i = begin; i < end; ++i)
        PackKeysF32(runs_[i], chunk.kv_head, Ahead(chunk.kv_head, i));
      const size_t in_panel = column % kPanelColumns;
      TileProduct(queries, k_dim, active, k_dim, keys_.data() + in_panel, kPanelColumns,
                  std::min(kPanelColumns - in_panel, columns - column), scores + column,
                  kChunkTokens);
    });
  }

  for (int r = chunk.rows.begin; r < chunk.rows.end; ++r) {
    float* row = scores_.data() + static_cast<size_t>(r) * kChunkTokens;
    const Sight sight = SightOf(r, chunk.begin);
    const bool shaped = NeedsShaping(sight);
    if (shaped) ShapeScores(r, chunk, sight, rules_.scale, row + sight.aligned);
    std::fill(row + chunk.skip, row + sight.aligned, 0.0f);
    const RowStatistics statistics = SoftmaxRow(row + sight.aligned, sight.count(),
                                                columns - sight.aligned, shaped ? 1.0f : scale_);
    out.max[r] = statistics.max;
    out.sum[r] = statistics.sum;
  }

  float* mix = out.mix + first * v_stride_;
  if (streams) {
    std::fill_n(mix, active * v_stride_, 0.0f);
    for (size_t i = 0; i < runs_.size(); ++i) {
      const Run& run = runs_[i];
      const uint8_t* const values = ValueRows(run, chunk.kv_head);
      const void* const ahead = Ahead(chunk.kv_head, runs_.size() + i);
      const float* const weights = scores + run.offset;
      if (int8) {
        StreamValues(reinterpret_cast<const int8_t*>(values),
                     kv_.VScale(run.block, chunk.kv_head) + run.slot, run.count, kv_.v_stride,
                     v_dim, ahead, weights, kChunkTokens, active, mix, v_stride_);
      } else {
        StreamValues(reinterpret_cast<const bf16*>(values), run.count, kv_.v_stride, v_dim, ahead,
                     weights, kChunkTokens, active, mix, v_stride_);
      }
    }
    return;
  }
  for (size_t column = 0; column < v_dim; column += kPanelColumns) {
    const size_t width = std::min(kPanelColumns, v_dim - column);
    for (size_t i = 0; i < runs_.size(); ++i) {
      PackValuesF32(runs_[i], chunk.kv_head, column, width, Ahead(chunk.kv_head, runs_.size() + i));
    }
    TileProduct(scores + chunk.skip, kChunkTokens, active, chunk.count - chunk.skip,
                values_.data() + chunk.skip * kPanelColumns, kPanelColumns, RoundUpColumns(width),
                mix + column, v_stride_);
  }
}

void AttentionTile::PackKeysF32(const Run& run, int kv_head, const void* ahead) {
  const uint8_t* keys = KeyRows(run, kv_head);
  const size_t k_dim = kv_.k_dim;
  float* columns = keys_.data() + run.offset % kPanelColumns;
  switch (kv_.element_type) {
    case KvElementType::kF32:
      return PackKeys(reinterpret_cast<const float*>(keys), run.count, k_dim, ahead, columns,
                      kPanelColumns);
    case KvElementType::kBf16:
      return PackKeys(reinterpret_cast<const bf16*>(keys), run.count, k_dim, ahead, columns,
                      kPanelColumns);
    case KvElementType::kF16:
      return PackKeys(reinterpret_cast<const f16*>(keys), run.count, k_dim, ahead, columns,
                      kPanelColumns);
    case KvElementType::kInt8:
      return PackKeys(reinterpret_cast<const int8_t*>(keys),
                      kv_.KScale(run.block, kv_head) + run.slot, run.count, k_dim, ahead, columns,
                      kPanelColumns);
  }
}

void AttentionTile::PackValuesF32(const Run& run, int kv_head, int first_column, int width,
                                  const void* ahead) {
  const uint8_t* values = ValueRows(run, kv_head);
  const size_t element_bytes = KvElementBytes(kv_.element_type);
  const float* scales = kv_.element_type == KvElementType::kInt8
                            ? kv_.VScale(run.block, kv_head) + run.slot
                            : nullptr;
  for (int t = 0; t < run.count; ++t) {
    const size_t at = static_cast<size_t>(t) * kv_.v_stride + first_column;
    float* out = values_.data() + (run.offset + t) * kPanelColumns;
    if (ahead != nullptr) {
      for (size_t byte = 0; byte < width * element_bytes; byte += 64)
        __builtin_prefetch(static_cast<const uint8_t*>(ahead) + at * element_bytes + byte);
    }
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
        ToFloats(reinterpret_cast<const int8_t*>(values) + at, width, scales[t], out);
        break;
    }
    std::fill(out + width, out + RoundUpColumns(width), 0.0f);
  }
}

}  // namespace kvasir
