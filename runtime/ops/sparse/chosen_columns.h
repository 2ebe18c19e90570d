// The K columns (kv_layout.h) of a few dimensions, of one sequence and KV head: where they stand,
// and asking for them before they are needed.
//
// Borrows everything. Thread safe: only reads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kvcache/kv_view.h"
#include "runtime/ops/sparse/sparse_item.h"

namespace kvasir {

class ChosenColumns {
 public:
  ChosenColumns() = default;
  // dims: ascending.
  ChosenColumns(const SparseItem& item, const KvView& kv, absl::Span<const int32_t> dims);

  const KvView& kv() const { return kv_; }
  absl::Span<const int32_t> dims() const { return dims_; }
  bool is_int8() const { return kv_.k_columns == KvColumns::kInt8; }
  // Blocks of the sequence that have columns: the full ones.
  int num_blocks() const { return num_blocks_; }

  // [k_dim][block_tokens] of kv().column_type().
  const uint8_t* Block(int block) const { return kv_.KeyColumns(blocks_[block], kv_head_); }
  // [k_dim], int8 columns only.
  const float* Scales(int block) const { return kv_.KeyColumnScales(blocks_[block], kv_head_); }

  // Prefetches a share of what is read some positions further on: called for all of a range in
  // order, piece by piece, while each is read, it asks for all that follows (for nothing at the
  // range's beginning).
  //
  // The order matters. A prefetch from a page whose address is in no TLB waits for its translation,
  // and the core can run only some hundred instructions further, so lines that follow each other
  // here lie in pages of different blocks: their translations are under way together. (64k tokens,
  // 4 query heads, 2 cores, pages of 4 KiB below a hypervisor: ranking takes 155 to 185 us, 260
  // with the lines of each block together.)
  void PrefetchAhead(int begin, int end) const;

  // K of the chosen dimensions at positions [begin, end), which lie in one block, as floats:
  // [rank][stride], 0 beyond the positions.
  void CopyRows(int begin, int end, size_t stride, float* out) const;

 private:
  KvView kv_;
  absl::Span<const BlockId> blocks_;
  absl::Span<const int32_t> dims_;
  int kv_head_ = 0;
  int num_blocks_ = 0;
  int group_blocks_ = 1;  // asked for while as many before them are read
};

}  // namespace kvasir
