#include "tests/ops/paged_kv.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "base/bf16.h"
#include "base/check.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/sparse/key_columns.h"

namespace kvasir {

PagedKv::PagedKv(const PagedKvSpec& spec) {
  KvLayoutSpec layout_spec;
  layout_spec.layers = UniformKvLayers({0}, spec.kv_heads, spec.k_dim, spec.v_dim);
  layout_spec.element_type = spec.element_type;
  layout_spec.block_tokens = spec.block_tokens;
  layout_spec.k_columns = spec.k_columns;
  const auto layout = KvLayout::Create(layout_spec);
  KVASIR_CHECK(layout.ok());
  memory_.Resize(layout->block_bytes() * spec.num_blocks);
  // All bits set is NaN in f32, bf16 and f16, and in the f32 scales of int8.
  std::fill_n(memory_.data(), memory_.size(), uint8_t{0xff});
  view_.base = memory_.data();
  view_.block_bytes = layout->block_bytes();
  view_.slice = layout->slice(0);
  view_.element_type = spec.element_type;
  view_.block_tokens = spec.block_tokens;
  view_.k_dim = spec.k_dim;
  view_.v_dim = view_.v_stride = spec.v_dim;
  view_.k_columns = layout->k_columns();
  free_.resize(spec.num_blocks);
  std::iota(free_.begin(), free_.end(), 0);
  std::shuffle(free_.begin(), free_.end(), std::mt19937(99));
}

void PagedKv::Poison(BlockId block) {
  std::fill_n(memory_.data() + block * view_.block_bytes, view_.block_bytes, uint8_t{0xff});
}

std::vector<BlockId> PagedKv::Add(const reference::Matrix& k, const reference::Matrix& v) {
  const int64_t needed = (k.rows + view_.block_tokens - 1) / view_.block_tokens;
  KVASIR_CHECK(needed <= static_cast<int64_t>(free_.size()));
  const std::vector<BlockId> blocks(free_.end() - needed, free_.end());
  free_.resize(free_.size() - needed);
  std::vector<int32_t> positions(k.rows);
  std::vector<BlockId> slot_blocks(k.rows);
  for (int64_t p = 0; p < k.rows; ++p) {
    positions[p] = static_cast<int32_t>(p);
    slot_blocks[p] = blocks[p / view_.block_tokens];
  }
  reference::Matrix k_copy = k, v_copy = v;  // MatrixView is writable
  WriteKv({k_copy.data.data(), k.rows, k.cols, k.cols},
          {v_copy.data.data(), v.rows, v.cols, v.cols}, positions, slot_blocks, view_);
  const int full = static_cast<int>(k.rows / view_.block_tokens);
  if (view_.k_columns != KvColumns::kOff && full > 0)
    FillKeyColumns({FilledBlocks{blocks, 0, full}}, view_);
  return blocks;
}

reference::Matrix PagedKv::ReadK(const std::vector<BlockId>& blocks, int positions) const {
  return Read(blocks, positions, false);
}

reference::Matrix PagedKv::ReadV(const std::vector<BlockId>& blocks, int positions) const {
  return Read(blocks, positions, true);
}

reference::Matrix PagedKv::ReadRankKeys(const std::vector<BlockId>& blocks, int positions) const {
  reference::Matrix out = ReadK(blocks, positions);
  for (int p = 0; p < positions / view_.block_tokens * view_.block_tokens; ++p) {
    const BlockId block = blocks[p / view_.block_tokens];
    for (int head = 0; head < view_.slice.kv_heads; ++head) {
      const uint8_t* columns = view_.KeyColumns(block, head);
      for (int d = 0; d < view_.k_dim; ++d) {
        const size_t at = static_cast<size_t>(d) * view_.block_tokens + p % view_.block_tokens;
        float value = 0;
        switch (view_.column_type()) {
          case KvElementType::kF32:
            value = reinterpret_cast<const float*>(columns)[at];
            break;
          case KvElementType::kBf16:
            value = ToFloat(reinterpret_cast<const bf16*>(columns)[at]);
            break;
          case KvElementType::kF16:
            value = ToFloat(reinterpret_cast<const f16*>(columns)[at]);
            break;
          case KvElementType::kInt8:
            value = reinterpret_cast<const int8_t*>(columns)[at] *
                    view_.KeyColumnScales(block, head)[d];
            break;
        }
        out.at(p, static_cast<int64_t>(head) * view_.k_dim + d) = value;
      }
    }
  }
  return out;
}

reference::Matrix PagedKv::Read(const std::vector<BlockId>& blocks, int positions,
                                bool values) const {
  const int dim = values ? view_.v_dim : view_.k_dim;
  const int heads = view_.slice.kv_heads;
  reference::Matrix out(positions, static_cast<int64_t>(heads) * dim);
  for (int p = 0; p < positions; ++p) {
    const BlockId block = blocks[p / view_.block_tokens];
    const int slot = p % view_.block_tokens;
    for (int head = 0; head < heads; ++head) {
      const uint8_t* tile = values ? view_.V(block, head) : view_.K(block, head);
      const float scale = view_.element_type != KvElementType::kInt8 ? 1.0f
                          : values ? view_.VScale(block, head)[slot]
                                   : view_.KScale(block, head)[slot];
      for (int i = 0; i < dim; ++i) {
        const int at = slot * dim + i;
        float value = 0;
        switch (view_.element_type) {
          case KvElementType::kF32:
            value = reinterpret_cast<const float*>(tile)[at];
            break;
          case KvElementType::kBf16:
            value = ToFloat(reinterpret_cast<const bf16*>(tile)[at]);
            break;
          case KvElementType::kF16:
            value = ToFloat(reinterpret_cast<const f16*>(tile)[at]);
            break;
          case KvElementType::kInt8:
            value = reinterpret_cast<const int8_t*>(tile)[at] * scale;
            break;
        }
        out.at(p, static_cast<int64_t>(head) * dim + i) = value;
      }
    }
  }
  return out;
}

}  // namespace kvasir
