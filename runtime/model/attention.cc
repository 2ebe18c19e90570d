#include "runtime/model/attention.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "base/check.h"
#include "runtime/model/layers/norm_params.h"
#include "runtime/model/weights.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/layers/norm.h"
#include "runtime/ops/layers/residual.h"
#include "runtime/ops/sparse/sparq_attention.h"

namespace kvasir {
namespace {

// Columns [begin, begin + cols) of every row.
MatrixView Columns(MatrixView x, int64_t begin, int64_t cols) {
  return MatrixView{x.data + begin, x.rows, cols, x.stride};
}

void NormalizeSpan(const QkNormSpec& spec, const NormWeights& weights, int heads, int head_dim,
                   MatrixView x) {
  const std::optional<NormParams> norm = NormParamsOf(spec.norm, weights);
  if (!norm) return;
  switch (spec.span) {
    case QkNormSpec::Span::kNone:
      return;
    case QkNormSpec::Span::kHead:
      return NormalizeHeads(x, heads, head_dim, *norm, /*weight_stride=*/0);
    case QkNormSpec::Span::kHeads:
      return NormalizeHeads(x, heads, head_dim, *norm, head_dim);
    case QkNormSpec::Span::kWhole:
      return NormalizeInPlace(x, *norm);
  }
}

// Whether queries and keys are rotated and nothing else, so that one pass over both will do.
bool OnlyRotates(const AttentionSpec& spec) {
  return spec.qk_norm.span == QkNormSpec::Span::kNone && !spec.output_gate && !spec.v_is_k &&
         !spec.k_norm_in_query && spec.query_temperature_beta == 0;
}

}  // namespace

std::vector<float> AlibiSlopes(int heads) {
  int power = 1;
  while (2 * power <= heads) power *= 2;
  std::vector<float> slopes;
  for (int j = 1; j <= power; ++j)
    slopes.push_back(static_cast<float>(std::exp2(-8.0 * j / power)));
  for (int j = 1; static_cast<int>(slopes.size()) < heads; j += 2)
    slopes.push_back(static_cast<float>(std::exp2(-4.0 * j / power)));
  return slopes;
}

SelfAttention::SelfAttention(const Model* model, const KvArena* arena, const RopeTables* ropes,
                             Activations* activations)
    : model_(*model),
      arena_(*arena),
      ropes_(*ropes),
      activations_(*activations),
      layers_(model->spec().num_layers()),
      sparse_attention_(std::make_unique<SparqAttention>()) {
  for (int i = 0; i < model->spec().num_layers(); ++i) {
    const AttentionSpec* spec = model->spec().layers[i].attention();
    if (spec == nullptr) continue;
    Layer& layer = layers_[i];
    AttentionRules& rules = layer.rules;
    rules.scale = spec->scale;
    rules.window = spec->window;
    rules.softcap = spec->softcap;
    if (spec->sinks) rules.sinks = WeightsOf(i).sinks.data();
    if (spec->alibi) {
      layer.alibi_slopes = AlibiSlopes(spec->query_heads);
      rules.alibi_slopes = layer.alibi_slopes.data();
      rules.alibi_rounded = spec->alibi_rounded;
    }
  }
}

const AttentionWeights& SelfAttention::WeightsOf(int layer) const {
  return std::get<AttentionWeights>(model_.weights().layers[layer].mixer);
}

MatrixView SelfAttention::Project(Linear* linear, int64_t rows) {
  const MatrixView projected = activations_.Projected(rows, linear->out_features());
  linear->Run(activations_.normed, projected, /*accumulate=*/false);
  return projected;
}

void SelfAttention::Run(int layer, const BatchRows& plan, const Contribution& out) {
  const AttentionSpec& spec = SpecOf(layer);
  const StepRows& rows = plan.all;
  const MatrixView qkv = Project(WeightsOf(layer).qkv.get(), rows.count());
  const int64_t query_size = spec.query_size(), kv_size = spec.kv_size();
  const MatrixView q = Columns(qkv, 0, query_size);
  const int64_t k_begin = spec.output_gate ? 2 * query_size : query_size;
  const MatrixView k = Columns(qkv, k_begin, kv_size);
  const MatrixView gate = spec.output_gate ? Columns(qkv, query_size, query_size) : MatrixView{};
  const KvView kv = arena_.View(layer);
  if (OnlyRotates(spec) && !kv.has_unrotated_k()) {
    // They stand side by side in each row.
    ropes_.Rotate(spec.rope, rows, spec.query_heads + spec.kv_heads, spec.head_dim,
                  Columns(qkv, 0, query_size + kv_size));
    WriteToPool(layer, plan, k, ValuesOf(layer, qkv, k_begin + kv_size, k));
  } else {
    PrepareQueries(layer, rows, q);
    StoreKeysAndValues(layer, plan, k, ValuesOf(layer, qkv, k_begin + kv_size, k));
  }
  AttendAndProject(layer, rows, q, gate, out);
}

void SelfAttention::StoreKv(int layer, const BatchRows& plan) {
  const int64_t kv_size = SpecOf(layer).kv_size();
  const MatrixView projected = Project(WeightsOf(layer).kv.get(), plan.all.count());
  const MatrixView k = Columns(projected, 0, kv_size);
  StoreKeysAndValues(layer, plan, k, ValuesOf(layer, projected, kv_size, k));
}

void SelfAttention::Attend(int layer, const StepRows& rows, const Contribution& out) {
  const AttentionSpec& spec = SpecOf(layer);
  const MatrixView projected = Project(WeightsOf(layer).q.get(), rows.count());
  const int64_t size = spec.query_size();
  const MatrixView q = Columns(projected, 0, size);
  PrepareQueries(layer, rows, q);
  AttendAndProject(layer, rows, q, spec.output_gate ? Columns(projected, size, size) : MatrixView{},
                   out);
}

MatrixView SelfAttention::ValuesOf(int layer, MatrixView projected, int64_t first_column,
                                   MatrixView keys) {
  const AttentionSpec& spec = SpecOf(layer);
  MatrixView values;
  if (spec.v_is_k) {
    values = activations_.Values(projected.rows, keys.cols);
    for (int64_t r = 0; r < keys.rows; ++r) std::copy_n(keys.row(r), keys.cols, values.row(r));
  } else {
    values = Columns(projected, first_column, int64_t{spec.kv_heads} * spec.v_head_dim);
  }
  if (spec.v_norm) {
    NormParams norm;
    norm.epsilon = model_.spec().layers[layer].norm.eps;
    NormalizeHeads(values, spec.kv_heads, spec.v_head_dim, norm, /*weight_stride=*/0);
  }
  return values;
}

void SelfAttention::NormalizeQuery(int layer, MatrixView q) const {
  const AttentionSpec& spec = SpecOf(layer);
  NormalizeSpan(spec.qk_norm, WeightsOf(layer).q_norm, spec.query_heads, spec.head_dim, q);
}

void SelfAttention::NormalizeKey(int layer, MatrixView k) const {
  const AttentionSpec& spec = SpecOf(layer);
  if (!spec.k_norm_in_query) {
    NormalizeSpan(spec.qk_norm, WeightsOf(layer).k_norm, spec.kv_heads, spec.head_dim, k);
    return;
  }
  NormParams without_weight;
  without_weight.epsilon = spec.qk_norm.norm.eps;
  NormalizeHeads(k, spec.kv_heads, spec.head_dim, without_weight, /*weight_stride=*/0);
}

void SelfAttention::PrepareQueries(int layer, const StepRows& rows, MatrixView q) {
  const AttentionSpec& spec = SpecOf(layer);
  if (!spec.qk_norm.after_rope) NormalizeQuery(layer, q);
  ropes_.Rotate(spec.rope, rows, spec.query_heads, spec.head_dim, q);
  if (spec.qk_norm.after_rope) NormalizeQuery(layer, q);
  if (spec.k_norm_in_query) {
    ScaleHeadColumns(q, spec.query_heads, spec.head_dim, WeightsOf(layer).k_norm.weight.data());
  }
  if (spec.query_temperature_beta == 0) return;
  temperatures_.clear();
  for (const int32_t position : rows.positions) {
    const int times = position / spec.query_temperature_positions;
    temperatures_.push_back(1.0f +
                            spec.query_temperature_beta * std::log1p(static_cast<float>(times)));
  }
  ScaleRows(q, temperatures_);
}

void SelfAttention::StoreKeysAndValues(int layer, const BatchRows& plan, MatrixView k,
                                       MatrixView v) {
  const AttentionSpec& spec = SpecOf(layer);
  if (!spec.qk_norm.after_rope) NormalizeKey(layer, k);
  const KvView kv = arena_.View(layer);
  if (kv.has_unrotated_k()) {
    WriteKv(k, {}, plan.all.positions, plan.WrittenOf(arena_.layout(), layer).slot_blocks,
            kv.ForUnrotatedK());
  }
  ropes_.Rotate(spec.rope, plan.all, spec.kv_heads, spec.head_dim, k);
  if (spec.qk_norm.after_rope) NormalizeKey(layer, k);
  WriteToPool(layer, plan, k, v);
}

void SelfAttention::WriteToPool(int layer, const BatchRows& plan, MatrixView k, MatrixView v) {
  const KvView kv = arena_.View(layer);
  WriteKv(k, v, plan.all.positions, plan.WrittenOf(arena_.layout(), layer).slot_blocks, kv);
  if (kv.k_columns != KvColumns::kOff)
    FillKeyColumns(plan.WrittenOf(arena_.layout(), layer).filled, kv);
}

bool SelfAttention::IsSparse(int layer, absl::Span<const SparseSequence> sequences) {
  return !sequences.empty() && sequences.front().method->Covers(layer);
}

bool SelfAttention::ContinuesGroup(int layer, absl::Span<const SparseSequence> sequences) const {
  const KvLayout& layout = arena_.layout();
  return layer > 0 && IsSparse(layer - 1, sequences) &&
         layout.owner(layer) == layout.owner(layer - 1);
}

void SelfAttention::AttendAndProject(int layer, const StepRows& rows, MatrixView q, MatrixView gate,
                                     const Contribution& out) {
  const AttentionSpec& spec = SpecOf(layer);
  const AttentionRules& rules = layers_[layer].rules;
  const AttentionQueries queries{q, spec.query_heads, gate};
  const StepRows::Group& group = rows.GroupOf(arena_.layout(), layer);
  const KvView stored = arena_.View(layer);
  const KvView kv = spec.reads_unrotated_k ? stored.ForUnrotatedK() : stored;
  const bool sparse = IsSparse(layer, group.sparse);
  // Each writes its own rows. Dense attention goes first: for int8 products it quantises all.
  const auto& dense = sparse ? group.sequences : group.every;
  if (!dense.empty()) paged_attention_.Run(queries, rules, dense, kv, &activations_.attended);
  if (sparse) {
    sparse_attention_->Run(layer, queries, rules.scale, group.sparse, kv, &activations_.attended,
                           ContinuesGroup(layer, group.sparse));
  } else {
    for (const SparseSequence& sequence : group.sparse) {
      if (sequence.bytes_read != nullptr)
        *sequence.bytes_read += DenseBytesRead(rules, sequence.sequence, kv);
    }
  }
  WeightsOf(layer).o->Run(activations_.attended, out.rows, out.accumulate);
}

}  // namespace kvasir
