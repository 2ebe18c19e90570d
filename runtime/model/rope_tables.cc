#include "runtime/model/rope_tables.h"

#include "absl/types/span.h"
#include "runtime/ops/elementwise.h"

namespace kvasir {

RopeTables::RopeTables(const ModelSpec& spec, int max_positions) : max_positions_(max_positions) {
  for (const RopeSpec& rope : spec.ropes) {
    const bool has_long = rope.scaling == RopeSpec::Scaling::kLongRope;
    tables_.emplace_back(rope, max_positions);
    long_tables_.emplace_back(rope, has_long ? max_positions : 0, /*long_context=*/true);
  }
}

void RopeTables::Rotate(int rope, const StepRows& rows, int num_heads, int head_dim,
                        MatrixView x) const {
  if (rope < 0) return;
  const absl::Span<const int32_t> positions = rows.positions;
  const RopeTable& long_table = long_tables_[rope];
  if (long_table.max_positions() == 0) {
    ApplyRope(x, num_heads, head_dim, positions, tables_[rope].view());
    return;
  }
  // Rows of one sequence lie together, and are of one kind.
  for (int64_t begin = 0, end; begin < x.rows; begin = end) {
    const bool is_long = rows.long_context[begin];
    for (end = begin + 1; end < x.rows && rows.long_context[end] == is_long;) ++end;
    const MatrixView part{x.row(begin), end - begin, x.cols, x.stride};
    ApplyRope(part, num_heads, head_dim, positions.subspan(begin, end - begin),
              (is_long ? long_table : tables_[rope]).view());
  }
}

}  // namespace kvasir
