// What SparQ is compared with, in front of the same attention: a window with sinks, and whole
// blocks by bounds of their scores. (The third, the true scores, is SparQ with all dimensions.)
// They are made to be obvious, not fast: bounds are recomputed from K columns each time, where a
// pool made for them would keep them.
//
// Both choose among the positions of a sequence that is longer than top_k.
#pragma once

#include "runtime/ops/sparse/sparse_item.h"

namespace kvasir::bench {

// First positions that a window keeps: four are enough for the softmax to rest on (StreamingLLM,
// arXiv 2309.17453).
inline constexpr int kSinkTokens = 4;

// The first kSinkTokens and the newest.
class WindowChooser : public PositionChooser {
 public:
  void Choose(const SparseItem& item, const KvView& kv, SparsePicks* picks) const override;
  int64_t BytesRead(const KvView& kv, int64_t positions) const override;
};

// The blocks that hold the newest local_window positions or are not full, and of the others as many
// as fit into top_k, those with the largest sum over the group's heads and over dimensions d of
// max(q[d] min K[d], q[d] max K[d]), ties to the earlier block (Quest, arXiv 2406.10774).
class BlockBoundChooser : public PositionChooser {
 public:
  void Choose(const SparseItem& item, const KvView& kv, SparsePicks* picks) const override;
  // The minimum and maximum of each full block that a pool made for it would keep.
  int64_t BytesRead(const KvView& kv, int64_t positions) const override;
};

}  // namespace kvasir::bench
