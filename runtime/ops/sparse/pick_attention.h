// Exact attention of one query group to picked positions, whose K and V rows lie scattered in the
// pool.
//
//   Begin              the queries
//   SetPicks           the positions
//   Attend(chunk)      attention to a range of picks            any order, in parallel
//   Finish             merges the chunks in ascending order
//
// Owns its scratch, reused over items. Chunks may run in different threads at once; the other
// stages may not.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "kvcache/kv_view.h"
#include "runtime/ops/sparse/sparse_item.h"

namespace kvasir {

class PickAttention {
 public:
  // Whether Begin will choose bf16 products, where the item allows them.
  static bool SuitsPairs(const KvView& kv);

  void Begin(const SparseItem& item, const KvView& kv);
  // Positions in ascending order, at least one; borrowed until Finish.
  void SetPicks(absl::Span<const int32_t> picks);
  int num_chunks() const;
  void Attend(int chunk);
  // Writes [group][v_dim].
  void Finish(float* out) const;

 private:
  template <class T>
  void AttendRows(int chunk);
  // Rows [begin, begin + count) of the picks: K, then V, then `ahead` K rows of what comes next.
  template <class T>
  void ListRows(int begin, int count, int ahead, const T** rows) const;
  void AttendPairs(int chunk);

  SparseItem item_;
  KvView kv_;
  absl::Span<const int32_t> picks_;
  bool pairs_ = false;
  AlignedBuffer<uint32_t> quads_;             // PackQuads(q), with pairs_
  AlignedBuffer<float> part_mix_;             // [num_chunks][group][v_dim]
  AlignedBuffer<float> part_max_, part_sum_;  // [num_chunks][group]
};

}  // namespace kvasir
