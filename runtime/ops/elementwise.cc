#include "runtime/ops/elementwise.h"

#include <algorithm>

#include "base/check.h"
#include "runtime/kernels/convert.h"
#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/ops/for_each_row.h"

namespace kvasir {
namespace {

// Where the row of one position, in one head's tile, begins.
template <typename T>
T* SlotRow(uint8_t* tile, int slot, int64_t dim) {
  return reinterpret_cast<T*>(tile) + slot * dim;
}

// Stores one token's heads; `tile` and `scale` give a head's tile and its scales in the token's
// block.
template <typename Tile, typename Scale>
void StoreHeads(const float* row, int64_t dim, int kv_heads, int slot, KvElementType type,
                const Tile& tile, const Scale& scale) {
  for (int head = 0; head < kv_heads; ++head, row += dim) {
    switch (type) {
      case KvElementType::kF32:
        std::copy_n(row, dim, SlotRow<float>(tile(head), slot, dim));
        break;
      case KvElementType::kBf16:
        FromFloats(row, dim, SlotRow<bf16>(tile(head), slot, dim));
        break;
      case KvElementType::kF16:
        FromFloats(row, dim, SlotRow<f16>(tile(head), slot, dim));
        break;
      case KvElementType::kInt8:
        scale(head)[slot] = QuantizeS8(row, dim, 127, SlotRow<int8_t>(tile(head), slot, dim));
        break;
    }
  }
}

}  // namespace

void ApplyRope(MatrixView x, int num_heads, int head_dim, absl::Span<const int32_t> positions,
               RopeView rope) {
  KVASIR_CHECK(static_cast<int64_t>(positions.size()) >= x.rows);
  const int64_t half = rope.rotary_dim / 2;
  ForEachRow(x.rows, static_cast<int64_t>(num_heads) * head_dim, [&](int64_t r) {
    const float* cos = rope.cos + positions[r] * half;
    const float* sin = rope.sin + positions[r] * half;
    float* row = x.row(r);
    for (int head = 0; head < num_heads; ++head) RopeHead(row + head * head_dim, cos, sin, half);
  });
}

void WriteKv(MatrixView k, MatrixView v, absl::Span<const int32_t> positions,
             absl::Span<const BlockId> slot_blocks, const KvView& kv) {
  const bool keys = k.data != nullptr, values = v.data != nullptr;
  KVASIR_CHECK(!keys || k.cols == int64_t{kv.slice.kv_heads} * kv.k_dim);
  KVASIR_CHECK(!values || v.cols == int64_t{kv.slice.kv_heads} * kv.v_dim);
  ForEachRow(keys ? k.rows : v.rows, k.cols + v.cols, [&](int64_t r) {
    const BlockId block = slot_blocks[r];
    const int slot = positions[r] % kv.block_tokens;
    if (keys) {
      StoreHeads(
          k.row(r), kv.k_dim, kv.slice.kv_heads, slot, kv.element_type,
          [&](int head) { return kv.K(block, head); },
          [&](int head) { return kv.KScale(block, head); });
    }
    if (values) {
      StoreHeads(
          v.row(r), kv.v_dim, kv.slice.kv_heads, slot, kv.element_type,
          [&](int head) { return kv.V(block, head); },
          [&](int head) { return kv.VScale(block, head); });
    }
  });
}

}  // namespace kvasir
