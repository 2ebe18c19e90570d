#include "runtime/model/attention.h"

#include <variant>

#include "runtime/model/weights.h"
#include "runtime/ops/elementwise.h"

namespace kvasir {
namespace {

// Columns [begin, begin + cols) of every row.
MatrixView Columns(MatrixView x, int64_t begin, int64_t cols) {
  return MatrixView{x.data + begin, x.rows, cols, x.stride};
}

}  // namespace

SelfAttention::SelfAttention(const Model* model, const KvArena* arena, const RopeTable* rope,
                             Activations* activations)
    : model_(*model),
      arena_(*arena),
      rope_(*rope),
      activations_(*activations),
      num_query_heads_(model->spec().query_heads()),
      head_dim_(model->spec().head_dim()),
      scale_(model->spec().attention(0).scale) {}

const AttentionWeights& SelfAttention::WeightsOf(int layer) const {
  return std::get<AttentionWeights>(model_.weights().layers[layer].mixer);
}

void SelfAttention::Run(int layer, const BatchRows& plan) {
  const AttentionWeights& weights = WeightsOf(layer);
  const StepRows& rows = plan.all;
  Normalize(layer, rows);
  const MatrixView qkv = activations_.Projected(rows.count(), weights.qkv->out_features());
  weights.qkv->Run(activations_.normed, qkv, /*accumulate=*/false);
  // Queries and keys stand side by side in each row: one pass rotates both.
  const int kv_heads = model_.spec().attention(layer).kv_heads;
  const int64_t query_size = int64_t{num_query_heads_} * head_dim_;
  const int64_t kv_size = int64_t{kv_heads} * head_dim_;
  ApplyRope(Columns(qkv, 0, query_size + kv_size), num_query_heads_ + kv_heads, head_dim_,
            rows.positions, rope_.view());
  WriteToPool(layer, plan, Columns(qkv, query_size, kv_size),
              Columns(qkv, query_size + kv_size, kv_size));
  AttendAndProject(layer, rows, Columns(qkv, 0, query_size));
}

void SelfAttention::StoreKv(int layer, const BatchRows& plan) {
  const AttentionWeights& weights = WeightsOf(layer);
  Normalize(layer, plan.all);
  const MatrixView kv = activations_.Projected(plan.all.count(), weights.kv->out_features());
  weights.kv->Run(activations_.normed, kv, /*accumulate=*/false);
  const int kv_heads = model_.spec().attention(layer).kv_heads;
  const int64_t kv_size = int64_t{kv_heads} * head_dim_;
  const MatrixView keys = Columns(kv, 0, kv_size);
  ApplyRope(keys, kv_heads, head_dim_, plan.all.positions, rope_.view());
  WriteToPool(layer, plan, keys, Columns(kv, kv_size, kv_size));
}

void SelfAttention::WriteToPool(int layer, const BatchRows& plan, MatrixView keys,
                                MatrixView values) {
  const KvView kv = arena_.View(layer);
  const BatchRows::Written& written = plan.written[arena_.layout().group_of(layer)];
  WriteKv(keys, values, plan.all.positions, written.slot_blocks, kv);
  if (kv.sparq_keys != SparqKeys::kOff) FillKeyColumns(written.filled, kv);
}

void SelfAttention::Attend(int layer, const StepRows& rows) {
  const AttentionWeights& weights = WeightsOf(layer);
  Normalize(layer, rows);
  const MatrixView queries = activations_.Projected(rows.count(), weights.q->out_features());
  weights.q->Run(activations_.normed, queries, /*accumulate=*/false);
  ApplyRope(queries, num_query_heads_, head_dim_, rows.positions, rope_.view());
  AttendAndProject(layer, rows, queries);
}

void SelfAttention::Normalize(int layer, const StepRows& rows) {
  RmsNorm(activations_.Residual(rows.count()), {},
          model_.weights().layers[layer].mixer_norm.weight.data(),
          model_.spec().layers[layer].norm.eps, &activations_.normed);
}

bool SelfAttention::ContinuesGroup(int layer) const {
  const KvLayout& layout = arena_.layout();
  return layer > 0 && layout.owner(layer) == layout.owner(layer - 1);
}

void SelfAttention::AttendAndProject(int layer, const StepRows& rows, MatrixView queries) {
  const KvView kv = arena_.View(layer);
  const StepRows::Group& group = rows.groups[arena_.layout().group_of(layer)];
  // Each writes its own rows. Dense attention goes first: for int8 products it quantises all.
  if (!group.sequences.empty()) {
    paged_attention_.Run(queries, num_query_heads_, scale_, group.sequences, kv,
                         &activations_.attended);
  }
  if (!group.sparse.empty()) {
    sparq_attention_.Run(queries, num_query_heads_, scale_, group.sparse, kv,
                         &activations_.attended, ContinuesGroup(layer));
  }
  WeightsOf(layer).o->Run(activations_.attended, activations_.Residual(rows.count()),
                          /*accumulate=*/true);
}

}  // namespace kvasir
