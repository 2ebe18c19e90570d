// Attention as a layer's mixer: contribution = o(attend(q(x))), with K and V of x written to the
// pool first in layers that own them. Which layer's K/V is read is the pool's business
// (KvArena::View); everything in which attention layers differ is AttentionSpec's.
//
// x is activations.normed throughout. Borrows everything it is given; owns attention's scratch. One
// per Decoder; not thread safe.
#pragma once

#include <memory>
#include <vector>

#include "kvcache/kv_arena.h"
#include "runtime/model/activations.h"
#include "runtime/model/layer_weights.h"
#include "runtime/model/layers/residual_stream.h"
#include "runtime/model/model.h"
#include "runtime/model/rope_tables.h"
#include "runtime/model/step_rows.h"
#include "runtime/ops/paged_attention.h"

namespace kvasir {

class SelfAttention {
 public:
  SelfAttention(const Model* model, const KvArena* arena, const RopeTables* ropes,
                Activations* activations);

  // An owner layer before the last storing one, over all rows of the step.
  void Run(int layer, const BatchRows& plan, const Contribution& out);

  // The last storing layer in two parts, between which rows may leave: K and V of all rows ...
  void StoreKv(int layer, const BatchRows& plan);
  // ... and the queries of those that stay. A borrower has only this part.
  void Attend(int layer, const StepRows& rows, const Contribution& out);

 private:
  // What of a layer is worked out once.
  struct Layer {
    AttentionRules rules;
    std::vector<float> alibi_slopes;  // [query_heads], or empty
  };

  const AttentionSpec& SpecOf(int layer) const { return model_.spec().attention(layer); }
  const AttentionWeights& WeightsOf(int layer) const;
  MatrixView Project(Linear* linear, int64_t rows);
  // Columns of a projection, as AttentionWeights lays them out.
  MatrixView ValuesOf(int layer, MatrixView projected, int64_t first_column, MatrixView keys);
  void PrepareQueries(int layer, const StepRows& rows, MatrixView q);
  void NormalizeQuery(int layer, MatrixView q) const;
  void NormalizeKey(int layer, MatrixView k) const;
  // Norms, rotates and writes K and V.
  void StoreKeysAndValues(int layer, const BatchRows& plan, MatrixView k, MatrixView v);
  void WriteToPool(int layer, const BatchRows& plan, MatrixView k, MatrixView v);
  // Whether sequences with a method that has begun attend by it here: the same for all of them.
  static bool IsSparse(int layer, absl::Span<const SparseSequence> sequences);
  // Whether the layer before read the same K/V in the same way, for the same rows: all rows leave
  // at the same layer.
  bool ContinuesGroup(int layer, absl::Span<const SparseSequence> sequences) const;
  // q: [rows, query_size], prepared; gate: what stands behind it, if the spec has one.
  void AttendAndProject(int layer, const StepRows& rows, MatrixView q, MatrixView gate,
                        const Contribution& out);

  const Model& model_;
  const KvArena& arena_;
  const RopeTables& ropes_;
  Activations& activations_;
  std::vector<Layer> layers_;  // [num_layers]; empty for other mixers
  PagedAttention paged_attention_;
  std::unique_ptr<SparseAttention> sparse_attention_;
  std::vector<float> temperatures_;  // [rows]
};

// The slopes of ALiBi's heads, arXiv 2108.12409: with p the largest power of two up to `heads`, the
// first p are 2^(-8 j / p), j = 1 ... p, the others every second one of those for 2 p.
std::vector<float> AlibiSlopes(int heads);

}  // namespace kvasir
