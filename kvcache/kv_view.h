// What a kernel needs to find K and V of one layer in the pool: plain pointers, nothing owned.
// Made by KvArena::View(layer); valid as long as the arena lives.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcache/kv_layout.h"

namespace kvasir {

using BlockId = int32_t;  // within its group
inline constexpr BlockId kNoBlock = -1;

struct KvView {
  uint8_t* base = nullptr;  // of the arena
  size_t block_bytes = 0;   // from one block to the next
  KvSlice slice;
  KvElementType element_type = KvElementType::kBf16;
  int block_tokens = 0;
  int k_dim = 0;
  int v_dim = 0;
  int v_stride = 0;  // elements from one V row to the next: v_dim; latent: k_dim
  KvColumns k_columns = KvColumns::kOff;

  // Start of one head's K/V in one block.
  uint8_t* Head(BlockId block, int kv_head) const {
    return base + static_cast<size_t>(block) * block_bytes + slice.offset_bytes +
           kv_head * slice.head_stride_bytes;
  }
  // [block_tokens][k_dim] of element_type.
  uint8_t* K(BlockId block, int kv_head) const {
    return Head(block, kv_head) + slice.k_offset_bytes;
  }
  // [block_tokens] rows of v_dim elements, v_stride apart, of element_type. Latent: the K rows'.
  uint8_t* V(BlockId block, int kv_head) const {
    return Head(block, kv_head) + slice.v_offset_bytes;
  }
  // K as it was before rotation, [block_tokens][k_dim] of element_type, where there is a plane of
  // it.
  bool has_unrotated_k() const { return slice.unrotated_k_offset_bytes != 0; }
  uint8_t* UnrotatedK(BlockId block, int kv_head) const {
    return Head(block, kv_head) + slice.unrotated_k_offset_bytes;
  }
  // The same layer for readers of K as it was before rotation: K and KScale give that plane.
  KvView ForUnrotatedK() const {
    KvView view = *this;
    view.slice.k_offset_bytes = slice.unrotated_k_offset_bytes;
    view.slice.k_scale_offset_bytes = slice.unrotated_k_scale_offset_bytes;
    view.k_columns = KvColumns::kOff;  // columns are of the rotated K
    return view;
  }
  // [block_tokens], int8 only: element = int8 value * scale.
  float* KScale(BlockId block, int kv_head) const {
    return reinterpret_cast<float*>(Head(block, kv_head) + slice.k_scale_offset_bytes);
  }
  float* VScale(BlockId block, int kv_head) const {
    return reinterpret_cast<float*>(Head(block, kv_head) + slice.v_scale_offset_bytes);
  }
  float* UnrotatedKScale(BlockId block, int kv_head) const {
    return reinterpret_cast<float*>(Head(block, kv_head) + slice.unrotated_k_scale_offset_bytes);
  }

  // With k_columns only, valid in full blocks only.
  // [k_dim][block_tokens] of column_type().
  uint8_t* KeyColumns(BlockId block, int kv_head) const {
    return base + static_cast<size_t>(block) * block_bytes + slice.columns_offset_bytes +
           kv_head * slice.columns_head_stride_bytes;
  }
  KvElementType column_type() const {
    return k_columns == KvColumns::kInt8 ? KvElementType::kInt8 : element_type;
  }
  // [k_dim], int8 columns only: element = int8 value * scale of its dimension.
  float* KeyColumnScales(BlockId block, int kv_head) const {
    return reinterpret_cast<float*>(KeyColumns(block, kv_head) +
                                    slice.key_column_scales_offset_bytes);
  }
  // [v_dim]: the sum of V over positions 0 to this block's last.
  float* VPrefixSum(BlockId block, int kv_head) const {
    return reinterpret_cast<float*>(KeyColumns(block, kv_head) + slice.v_prefix_sum_offset_bytes);
  }
};

}  // namespace kvasir
