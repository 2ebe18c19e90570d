#include "runtime/model/decoder.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/model/activations.h"
#include "runtime/model/attention.h"
#include "runtime/model/layers/feed_forward.h"
#include "runtime/model/rope_table.h"
#include "runtime/model/step_rows.h"
#include "runtime/model/weights.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/key_columns.h"

namespace kvasir {
namespace {

// Positions that can ever be asked for: what the model was made for, or what the pool can hold if
// that is less.
int MaxPositions(const ModelSpec& spec, const KvArena& arena) {
  if (!arena.layout().has_full_group()) return spec.max_positions;
  const int64_t slots = int64_t{arena.num_blocks(0)} * arena.layout().block_tokens();
  return static_cast<int>(std::min<int64_t>(spec.max_positions, slots));
}

// Row r becomes row rows[r]; rows ascend, so no row is overwritten before it has moved.
void KeepRows(const std::vector<int32_t>& rows, MatrixView x) {
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r] != static_cast<int32_t>(r))
      std::memcpy(x.row(r), x.row(rows[r]), x.cols * sizeof(float));
  }
}

}  // namespace

struct Decoder::State {
  State(const Model* model, KvArena* arena, int max_batch_tokens)
      : model(*model),
        arena(*arena),
        max_batch_tokens(max_batch_tokens),
        last_owner_layer(arena->layout().last_owner_layer()),
        rope(model->spec().ropes[0], MaxPositions(model->spec(), *arena)),
        activations(model->spec(), model->compute_type(), max_batch_tokens),
        attention(model, arena, &rope, &activations),
        feed_forward(model->compute_type(), &activations) {}

  void CheckBounds() const;
  // Any layer but the last owner.
  void RunLayer(int layer, const StepRows& rows);
  void RunLastOwnerLayer();
  absl::Span<const float> Logits();

  const Model& model;
  const KvArena& arena;
  const int max_batch_tokens;
  const int last_owner_layer;
  const RopeTable rope;
  Activations activations;
  SelfAttention attention;
  FeedForward feed_forward;
  BatchRows plan;
};

Decoder::Decoder(const Model* model, KvArena* arena, int max_batch_tokens) {
  KVASIR_CHECK(max_batch_tokens >= 1);
  KVASIR_CHECK(arena->layout().num_layers() == model->spec().num_layers());
  KVASIR_CHECK(arena->layout().last_owner_layer() == model->spec().last_storing_layer());
  state_ = std::make_unique<State>(model, arena, max_batch_tokens);
}

Decoder::~Decoder() = default;

absl::Span<const float> Decoder::Forward(absl::Span<const BatchSequence> batch) {
  State& s = *state_;
  s.plan.Build(batch, s.arena.layout());
  s.CheckBounds();
  s.model.weights().embedding->Lookup(s.plan.tokens, s.activations.Residual(s.plan.all.count()));
  for (int layer = 0; layer < s.last_owner_layer; ++layer) s.RunLayer(layer, s.plan.all);
  s.RunLastOwnerLayer();
  if (s.plan.wanted.count() == 0) return {};
  for (int layer = s.last_owner_layer + 1; layer < s.model.spec().num_layers(); ++layer) {
    s.RunLayer(layer, s.plan.wanted);
  }
  return s.Logits();
}

void Decoder::FillKeyColumns(absl::Span<const BlockId> full_blocks) {
  const KvLayout& layout = state_->arena.layout();
  if (full_blocks.empty()) return;
  const FilledBlocks filled{full_blocks, 0, static_cast<int>(full_blocks.size())};
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    if (layout.is_owner(layer) && layout.sparq_keys(layer) != SparqKeys::kOff)
      kvasir::FillKeyColumns({filled}, state_->arena.View(layer));
  }
}

void Decoder::Warm() {
  for (Linear* linear : state_->model.weights().linears()) linear->Warm(state_->max_batch_tokens);
}

void Decoder::State::CheckBounds() const {
  KVASIR_CHECK(plan.all.count() <= max_batch_tokens);
  for (const int32_t position : plan.all.positions) KVASIR_CHECK(position < rope.max_positions());
}

void Decoder::State::RunLayer(int layer, const StepRows& rows) {
  if (arena.layout().is_owner(layer)) {
    attention.Run(layer, plan);
  } else {
    attention.Attend(layer, rows);
  }
  feed_forward.Run(model.spec().layers[layer], model.weights().layers[layer], rows.count());
}

// Once K and V of every owner layer are stored, a row has only its own logits left to give: rows
// whose logits are not wanted leave here, before the queries.
void Decoder::State::RunLastOwnerLayer() {
  attention.StoreKv(last_owner_layer, plan);
  KeepRows(plan.wanted_rows, activations.Residual(plan.all.count()));
  if (plan.wanted.count() == 0) return;
  attention.Attend(last_owner_layer, plan.wanted);
  feed_forward.Run(model.spec().layers[last_owner_layer], model.weights().layers[last_owner_layer],
                   plan.wanted.count());
}

absl::Span<const float> Decoder::State::Logits() {
  const int64_t rows = plan.wanted.count();
  RmsNorm(activations.Residual(rows), {}, model.weights().final_norm.weight.data(),
          model.spec().head.norm.eps, &activations.normed);
  const MatrixView logits = activations.Logits(rows);
  model.weights().lm_head->Run(activations.normed, logits, /*accumulate=*/false);
  return absl::MakeConstSpan(logits.data, static_cast<size_t>(rows * logits.cols));
}

}  // namespace kvasir
