#include "runtime/ops/attention_tile.h"

#include <algorithm>
#include <cstring>

#include "kvcache/check.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/convert.h"

namespace kvasir {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;

template <typename T>
const T* RowOf(const uint8_t* tile, int slot, int dim) {
  return reinterpret_cast<const T*>(tile) + static_cast<size_t>(slot) * dim;
}

}  // namespace

void AttentionTile::Prepare(TileArithmetic arithmetic, const KvView& kv, int max_rows) {
  arithmetic_ = arithmetic;
  kv_ = kv;
  v_stride_ = static_cast<int>(RoundUpColumns(kv.v_dim));
  const size_t rows = max_rows;
  scores_.Resize(rows * kChunkTokens);
  if (arithmetic == TileArithmetic::kF32) {
    query_rows_.Resize(rows * kv.k_dim);
    keys_.Resize(static_cast<size_t>(kv.k_dim) * kChunkTokens);
    values_.Resize(static_cast<size_t>(kChunkTokens) * v_stride_);
  } else {
    KVASIR_CHECK(kv.k_dim % 2 == 0);
    query_pairs_.Resize(rows * kv.k_dim / 2);
    key_pairs_.Resize(static_cast<size_t>(kv.k_dim) / 2 * kChunkTokens);
    value_pairs_.Resize(static_cast<size_t>(kChunkTokens) / 2 * v_stride_);
    weights_.Resize(rows * kChunkTokens);
    key_scales_.Resize(kChunkTokens);
    value_scales_.Resize(kChunkTokens);
  }
  for (auto* mix : {&chunk_mix_, &total_mix_}) mix->Resize(rows * v_stride_);
  for (auto* statistic : {&chunk_max_, &chunk_sum_, &total_max_, &total_sum_}) statistic->Resize(rows);
}

void AttentionTile::SetQueries(const TileQueries& queries, float softmax_scale) {
  queries_ = queries;
  scale_ = softmax_scale * kLog2E;
  const size_t heads_floats = static_cast<size_t>(queries.group) * kv_.k_dim;
  for (int token = 0; token < queries.num_tokens; ++token) {
    // A group's query heads lie one behind the other.
    const float* from = queries.q.row(queries.first_row + token) + static_cast<size_t>(queries.first_head) * kv_.k_dim;
    if (arithmetic_ == TileArithmetic::kF32) {
      std::copy_n(from, heads_floats, query_rows_.data() + token * heads_floats);
    } else {
      FromFloats(from, heads_floats, reinterpret_cast<bf16*>(query_pairs_.data()) + token * heads_floats);
    }
  }
}

int AttentionTile::RowLimit(int row, int chunk_begin) const {
  const int end = queries_.first_position + row / queries_.group + 1;
  return std::clamp(end - chunk_begin, 0, kChunkTokens);
}

int AttentionTile::Attend(absl::Span<const BlockId> blocks, int kv_head, int chunk, TilePartial out) {
  const int begin = chunk * kChunkTokens;
  const int rows = queries_.num_rows();
  const int count = RowLimit(rows - 1, begin);  // of positions of the chunk that anyone attends to
  KVASIR_CHECK(count > 0);
  const int first_row = std::max(0, begin - queries_.first_position) * queries_.group;
  const size_t active = rows - first_row;
  const size_t columns = RoundUpColumns(count);

  PackChunk(blocks, kv_head, begin, count);
  float* scores = scores_.data() + static_cast<size_t>(first_row) * kChunkTokens;
  float* mix = out.mix + static_cast<size_t>(first_row) * v_stride_;

  if (arithmetic_ == TileArithmetic::kF32) {
    TileProduct(query_rows_.data() + static_cast<size_t>(first_row) * kv_.k_dim, kv_.k_dim, active, kv_.k_dim,
                keys_.data(), kChunkTokens, columns, scores, kChunkTokens);
    for (int r = first_row; r < rows; ++r) {
      float* row = scores_.data() + static_cast<size_t>(r) * kChunkTokens;
      const RowStatistics statistics = SoftmaxRow(row, RowLimit(r, begin), columns, scale_);
      out.max[r] = statistics.max;
      out.sum[r] = statistics.sum;
    }
    TileProduct(scores, kChunkTokens, active, count, values_.data(), v_stride_, v_stride_, mix, v_stride_);
    return first_row;
  }

  const size_t k_pairs = kv_.k_dim / 2;
  TileProductPairs(query_pairs_.data() + first_row * k_pairs, k_pairs, active, k_pairs, key_pairs_.data(),
                   kChunkTokens, columns, scores, kChunkTokens);
  const bool scaled = kv_.element_type == KvElementType::kInt8;
  for (int r = first_row; r < rows; ++r) {
    float* row = scores_.data() + static_cast<size_t>(r) * kChunkTokens;
    bf16* weights = weights_.data() + static_cast<size_t>(r) * kChunkTokens;
    const int limit = RowLimit(r, begin);
    const RowStatistics statistics =
        scaled ? SoftmaxRow(row, limit, columns, scale_, key_scales_.data(), value_scales_.data(), weights)
               : SoftmaxRow(row, limit, columns, scale_, weights);
    out.max[r] = statistics.max;
    out.sum[r] = statistics.sum;
  }
  const auto* weight_pairs = reinterpret_cast<const uint32_t*>(weights_.data()) +
                             static_cast<size_t>(first_row) * kChunkTokens / 2;
  TileProductPairs(weight_pairs, kChunkTokens / 2, active, (count + 1) / 2, value_pairs_.data(), v_stride_,
                   v_stride_, mix, v_stride_);
  return first_row;
}

// Runs of consecutive slots: a block may hold several chunks or a part of one, but both begin at multiples of
// 16 positions, so every run but the last is whole column groups.
void AttentionTile::PackChunk(absl::Span<const BlockId> blocks, int kv_head, int begin, int count) {
  for (int done = 0; done < count;) {
    const int position = begin + done;
    const int slot = position % kv_.block_tokens;
    const int run = std::min(count - done, kv_.block_tokens - slot);
    const BlockId block = blocks[position / kv_.block_tokens];
    PackKeyRun(block, kv_head, slot, done, run);
    PackValueRun(block, kv_head, slot, done, run);
    done += run;
  }
}

void AttentionTile::PackKeyRun(BlockId block, int kv_head, int slot, int begin, int count) {
  const uint8_t* tile = kv_.K(block, kv_head);
  const int dim = kv_.k_dim;
  if (arithmetic_ == TileArithmetic::kBf16) {
    uint32_t* out = key_pairs_.data() + begin;
    if (kv_.element_type == KvElementType::kBf16) {
      PackKeyPairs(RowOf<bf16>(tile, slot, dim), count, dim, out, kChunkTokens);
      return;
    }
    PackKeyPairs(RowOf<int8_t>(tile, slot, dim), count, dim, out, kChunkTokens);
    float* scales = key_scales_.data() + begin;
    std::copy_n(kv_.KScale(block, kv_head) + slot, count, scales);
    std::fill(scales + count, scales + RoundUpColumns(count), 0.0f);
    return;
  }
  float* out = keys_.data() + begin;
  switch (kv_.element_type) {
    case KvElementType::kF32:
      PackKeys(RowOf<float>(tile, slot, dim), count, dim, out, kChunkTokens);
      break;
    case KvElementType::kBf16:
      PackKeys(RowOf<bf16>(tile, slot, dim), count, dim, out, kChunkTokens);
      break;
    case KvElementType::kF16:
      PackKeys(RowOf<f16>(tile, slot, dim), count, dim, out, kChunkTokens);
      break;
    case KvElementType::kInt8:
      PackKeys(RowOf<int8_t>(tile, slot, dim), kv_.KScale(block, kv_head) + slot, count, dim, out, kChunkTokens);
      break;
  }
}

void AttentionTile::PackValueRun(BlockId block, int kv_head, int slot, int begin, int count) {
  const uint8_t* tile = kv_.V(block, kv_head);
  const int dim = kv_.v_dim;
  if (arithmetic_ == TileArithmetic::kBf16) {
    uint32_t* out = value_pairs_.data() + static_cast<size_t>(begin) / 2 * v_stride_;
    if (kv_.element_type == KvElementType::kBf16) {
      PackValuePairs(RowOf<bf16>(tile, slot, dim), count, dim, out, v_stride_);
      return;
    }
    PackValuePairs(RowOf<int8_t>(tile, slot, dim), count, dim, out, v_stride_);
    float* scales = value_scales_.data() + begin;
    std::copy_n(kv_.VScale(block, kv_head) + slot, count, scales);
    std::fill(scales + count, scales + RoundUpColumns(count), 0.0f);
    return;
  }
  for (int t = 0; t < count; ++t) {
    float* out = values_.data() + static_cast<size_t>(begin + t) * v_stride_;
    switch (kv_.element_type) {
      case KvElementType::kF32:
        std::copy_n(RowOf<float>(tile, slot + t, dim), dim, out);
        break;
      case KvElementType::kBf16:
        ToFloats(RowOf<bf16>(tile, slot + t, dim), dim, out);
        break;
      case KvElementType::kF16:
        ToFloats(RowOf<f16>(tile, slot + t, dim), dim, out);
        break;
      case KvElementType::kInt8:
        ToFloats(RowOf<int8_t>(tile, slot + t, dim), dim, kv_.VScale(block, kv_head)[slot + t], out);
        break;
    }
    std::fill(out + dim, out + v_stride_, 0.0f);
  }
}

void AttentionTile::Merge(const TilePartial& part, int first_row, int num_rows, int v_stride, TilePartial whole) {
  for (int r = first_row; r < num_rows; ++r) {
    const float* from = part.mix + static_cast<size_t>(r) * v_stride;
    float* to = whole.mix + static_cast<size_t>(r) * v_stride;
    if (whole.sum[r] == 0.0f) {
      std::copy_n(from, v_stride, to);
      whole.max[r] = part.max[r];
      whole.sum[r] = part.sum[r];
      continue;
    }
    const float max = std::max(whole.max[r], part.max[r]);
    const float whole_factor = Exp2Scalar(whole.max[r] - max);
    const float part_factor = Exp2Scalar(part.max[r] - max);
    BlendRow(to, whole_factor, from, part_factor, v_stride);
    whole.sum[r] = whole.sum[r] * whole_factor + part.sum[r] * part_factor;
    whole.max[r] = max;
  }
}

}  // namespace kvasir
