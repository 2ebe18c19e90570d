// The rotations of a model's layers: one table per RopeSpec, and a second one for long contexts
// where the spec has divisors of its own for them. Owns the tables; immutable, thread safe.
#pragma once

#include <vector>

#include "runtime/model/model_spec.h"
#include "runtime/model/rope_table.h"
#include "runtime/model/step_rows.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class RopeTables {
 public:
  // For positions [0, max_positions).
  RopeTables(const ModelSpec& spec, int max_positions);

  // Rotates the heads [num_heads][head_dim] of each row in place, by table `rope` of the model
  // (AttentionSpec::rope; -1: not at all) at the rows' positions.
  void Rotate(int rope, const StepRows& rows, int num_heads, int head_dim, MatrixView x) const;

  // For a mixer that rotates by itself. Not for specs with a table of their own for long contexts.
  RopeView view(int rope) const { return tables_[rope].view(); }
  int max_positions() const { return max_positions_; }

 private:
  int max_positions_;
  std::vector<RopeTable> tables_;       // [ropes]
  std::vector<RopeTable> long_tables_;  // [ropes]; of no positions where there is none
};

}  // namespace kvasir
