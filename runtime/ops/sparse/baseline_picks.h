// Ways to choose positions that SparQ is compared with, on the same pool and in front of the same
// attention: a window with sinks, and whole blocks by bounds of their scores. (The third, the true
// scores, is SparQ with every dimension.) They are made to be obvious, not fast: bounds are
// recomputed from K columns each time, where a pool made for them would keep them.
#pragma once

#include "kvcache/kv_view.h"
#include "runtime/ops/sparse/sparse_item.h"

namespace kvasir {

// First positions that a window keeps: four are enough for the softmax to rest on (StreamingLLM,
// arXiv 2309.17453).
inline constexpr int kSinkTokens = 4;

// By item.params.ranking, at most top_k of item.positions > top_k positions; alpha is 1.
//
//   kWindow       the first kSinkTokens and the newest.
//   kBlockBounds  the blocks that hold the newest local_window positions or are not full, and of
//   the others as many as
//                 fit into top_k, those with the largest sum over the group's heads and over
//                 dimensions d of max(q[d] min K[d], q[d] max K[d]), ties to the earlier block
//                 (Quest, arXiv 2406.10774).
void ChooseBaseline(const SparseItem& item, const KvView& kv, SparsePicks* picks);

}  // namespace kvasir
