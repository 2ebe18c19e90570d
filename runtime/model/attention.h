// The attention half of a decoder layer: residual += o(attend(rope(q(norm(residual))))), with K and
// V written to the pool first in layers that own them. Which layer's K/V is read is the pool's
// business (KvArena::View).
//
// Borrows everything it is given; owns attention's scratch. One per Decoder; not thread safe.
#pragma once

#include "kvcache/kv_arena.h"
#include "runtime/model/activations.h"
#include "runtime/model/layer_weights.h"
#include "runtime/model/model.h"
#include "runtime/model/rope_table.h"
#include "runtime/model/step_rows.h"
#include "runtime/ops/paged_attention.h"

namespace kvasir {

class SelfAttention {
 public:
  SelfAttention(const Model* model, const KvArena* arena, const RopeTable* rope,
                Activations* activations);

  // An owner layer before the last one, over all rows of the step.
  void Run(int layer, const BatchRows& plan);

  // The last owner layer in two parts, between which rows may leave: K and V of all rows ...
  void StoreKv(int layer, const BatchRows& plan);
  // ... and the queries of those that stay. A borrower has only this part.
  void Attend(int layer, const StepRows& rows);

 private:
  const AttentionWeights& WeightsOf(int layer) const;
  void Normalize(int layer, const StepRows& rows);
  void WriteToPool(int layer, const BatchRows& plan, MatrixView keys, MatrixView values);
  // Whether the layer before read the same K/V, for the same rows: all rows leave at the same
  // layer.
  bool ContinuesGroup(int layer) const;
  // queries: [rows, query_size] after RoPE. Adds the layer's output to the residual stream.
  void AttendAndProject(int layer, const StepRows& rows, MatrixView queries);

  const Model& model_;
  const KvArena& arena_;
  const RopeTable& rope_;
  Activations& activations_;
  const int num_query_heads_;
  const int head_dim_;
  const float scale_;  // of the scores: 1 / sqrt(head_dim)
  PagedAttention paged_attention_;
  SparqAttention sparq_attention_;
};

}  // namespace kvasir
