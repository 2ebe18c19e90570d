// A paged pool of one owner layer for tests of the operations: blocks are dealt out in a shuffled
// order, and every byte that nobody wrote is NaN, so that a kernel that looks past a sequence's end
// shows it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "kvcache/kv_layout.h"
#include "kvcache/kv_view.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {

struct PagedKvSpec {
  int kv_heads = 1;
  int k_dim = 64;
  int v_dim = 64;
  KvElementType element_type = KvElementType::kF32;
  int block_tokens = 32;
  int num_blocks = 64;
  KvColumns k_columns = KvColumns::kOff;
};

class PagedKv {
 public:
  explicit PagedKv(const PagedKvSpec& spec);

  const KvView& view() const { return view_; }

  // Takes blocks for k.rows positions and writes K and V [positions][kv_heads * dim] through
  // WriteKv, and key columns, if the pool has them, through FillKeyColumns. Returns the block
  // table.
  std::vector<BlockId> Add(const reference::Matrix& k, const reference::Matrix& v);

  // Every byte of a block becomes a NaN's, as if its new owner had not written yet.
  void Poison(BlockId block);

  // What reading K or V back gives: the values after the element type's rounding.
  reference::Matrix ReadK(const std::vector<BlockId>& blocks, int positions) const;
  // What SparQ ranks by: key columns in full blocks, K behind them.
  reference::Matrix ReadRankKeys(const std::vector<BlockId>& blocks, int positions) const;
  reference::Matrix ReadV(const std::vector<BlockId>& blocks, int positions) const;

 private:
  reference::Matrix Read(const std::vector<BlockId>& blocks, int positions, bool values) const;

  AlignedBuffer<uint8_t> memory_;
  KvView view_;
  std::vector<BlockId> free_;
};

}  // namespace kvasir
