#include "runtime/model/decoder.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/background_work.h"
#include "base/check.h"
#include "runtime/model/activations.h"
#include "runtime/model/layers/feed_forward.h"
#include "runtime/model/layers/mixer.h"
#include "runtime/model/layers/norm_params.h"
#include "runtime/model/layers/residual_stream.h"
#include "runtime/model/layers/side_streams.h"
#include "runtime/model/rope_tables.h"
#include "runtime/model/step_rows.h"
#include "runtime/model/weights.h"
#include "runtime/ops/input_rows.h"
#include "runtime/ops/layers/norm.h"
#include "runtime/ops/layers/residual.h"
#include "runtime/ops/sparse/key_columns.h"

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
        spec(model->spec()),
        weights(model->weights()),
        arena(*arena),
        max_batch_tokens(max_batch_tokens),
        last_storing_layer(model->spec().last_storing_layer()),
        ropes(model->spec(), MaxPositions(model->spec(), *arena)),
        activations(model->spec(), model->compute_type(), max_batch_tokens),
        stream(model, &activations),
        side_streams(model, &stream, &activations),
        mixer(model, arena, &ropes, &activations),
        feed_forward(model, &stream, &activations) {}

  void CheckBounds() const;
  void Embed();
  // Any layer but the last storing one.
  void RunLayer(int layer, const StepRows& rows);
  void RunLastStoringLayer();
  void ReadForMixer(int layer, int64_t rows);
  // What follows a layer's mixer.
  void FinishLayer(int layer, int64_t rows);
  absl::Span<const float> Logits();

  const Model& model;
  const ModelSpec& spec;
  const ModelWeights& weights;
  const KvArena& arena;
  const int max_batch_tokens;
  const int last_storing_layer;
  const RopeTables ropes;
  Activations activations;
  ResidualStream stream;
  SideStreams side_streams;
  Mixer mixer;
  FeedForward feed_forward;
  BatchRows plan;
  int64_t passes_bytes_read = 0;           // without experts
  std::vector<TokenId> learned_positions;  // [rows]: rows of the table of positions
};

Decoder::Decoder(const Model* model, KvArena* arena, int max_batch_tokens) {
  KVASIR_CHECK(max_batch_tokens >= 1);
  KVASIR_CHECK(arena->layout().num_layers() == model->spec().num_layers());
  state_ = std::make_unique<State>(model, arena, max_batch_tokens);
}

Decoder::~Decoder() = default;

absl::Span<const float> Decoder::Forward(absl::Span<const BatchSequence> batch) {
  State& s = *state_;
  s.plan.Build(batch, s.arena.layout());
  s.CheckBounds();
  s.Embed();
  for (int layer = 0; layer < s.last_storing_layer; ++layer) s.RunLayer(layer, s.plan.all);
  s.RunLastStoringLayer();
  s.passes_bytes_read += static_cast<int64_t>(s.weights.pass_bytes());
  if (s.plan.wanted.count() == 0) {
    s.passes_bytes_read -= static_cast<int64_t>(s.weights.head_bytes());
    return {};
  }
  for (int layer = s.last_storing_layer + 1; layer < s.spec.num_layers(); ++layer) {
    s.RunLayer(layer, s.plan.wanted);
  }
  return s.Logits();
}

int64_t Decoder::weight_bytes_read() const {
  return state_->passes_bytes_read + state_->feed_forward.expert_bytes_read();
}

void Decoder::FillKeyColumns(absl::Span<const BlockId> full_blocks) {
  const KvLayout& layout = state_->arena.layout();
  if (full_blocks.empty()) return;
  const int count = static_cast<int>(full_blocks.size());
  constexpr int kAtOnce = 8;  // blocks; a piece of work beside the steps
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    if (!layout.is_owner(layer) || layout.k_columns(layer) == KvColumns::kOff) continue;
    for (int first = 0; first < count; first += kAtOnce) {
      const FilledBlocks filled{full_blocks, first, std::min(kAtOnce, count - first)};
      kvasir::FillKeyColumns({filled}, state_->arena.View(layer));
      GiveWayToSteps();
    }
  }
}

void Decoder::Warm() {
  for (Linear* linear : state_->weights.linears()) linear->Warm(state_->max_batch_tokens);
}

void Decoder::State::CheckBounds() const {
  KVASIR_CHECK(plan.all.count() <= max_batch_tokens);
  for (const int32_t position : plan.all.positions) KVASIR_CHECK(position < ropes.max_positions());
}

void Decoder::State::Embed() {
  const int64_t rows = plan.all.count();
  const MatrixView x = activations.Residual(rows);
  if (weights.embedding_project != nullptr) {
    const MatrixView narrow = activations.Projected(rows, spec.embedding.size);
    weights.embedding->Lookup(plan.tokens, narrow);
    SetRows(narrow, &activations.normed);
    weights.embedding_project->Run(activations.normed, x, /*accumulate=*/false);
  } else {
    weights.embedding->Lookup(plan.tokens, x);
  }
  if (spec.embedding.multiplier != 1.0f) ScaleRows(x, spec.embedding.multiplier);
  if (spec.embedding.learned_positions) {
    learned_positions.clear();
    for (const int32_t position : plan.all.positions)
      learned_positions.push_back(position + spec.embedding.position_offset);
    const MatrixView positions = activations.Contributed(rows);
    weights.positions->Lookup(learned_positions, positions);
    JoinResidual(positions, {}, x);
  }
  if (const auto norm = NormParamsOf(spec.embedding.norm, weights.embedding_norm))
    NormalizeInPlace(x, *norm);
  side_streams.Begin(plan.tokens);
}

void Decoder::State::RunLayer(int layer, const StepRows& rows) {
  side_streams.BeforeLayer(layer, rows.count());
  ReadForMixer(layer, rows.count());
  mixer.Run(layer, plan, rows, stream.MixerTarget(layer, rows.count()));
  FinishLayer(layer, rows.count());
}

void Decoder::State::ReadForMixer(int layer, int64_t rows) {
  stream.ReadForMixer(layer, rows, &activations.normed);
  side_streams.BeforeMixer(layer, rows);
}

// Once every layer has stored what later positions need, a row has only its own logits left to
// give: rows whose logits are not wanted leave here, before the queries.
void Decoder::State::RunLastStoringLayer() {
  const int layer = last_storing_layer;
  side_streams.BeforeLayer(layer, plan.all.count());
  stream.ReadForMixer(layer, plan.all.count(), &activations.normed);
  const Contribution all = stream.MixerTarget(layer, plan.all.count());
  mixer.Store(layer, plan, all);
  if (mixer.ContributesWhenStoring(layer)) KeepRows(plan.wanted_rows, all.rows);
  KeepRows(plan.wanted_rows, activations.Residual(plan.all.count()));
  side_streams.KeepRows(plan.wanted_rows);
  const int64_t wanted = plan.wanted.count();
  if (wanted == 0) return;
  ReadForMixer(layer, wanted);
  mixer.Attend(layer, plan.wanted, stream.MixerTarget(layer, wanted));
  FinishLayer(layer, wanted);
}

void Decoder::State::FinishLayer(int layer, int64_t rows) {
  stream.JoinMixer(layer, rows);
  side_streams.AfterMixer(layer, rows);
  feed_forward.Run(layer, rows);
  stream.JoinMlp(layer, rows);
  side_streams.AfterMlp(layer, rows);
  if (spec.layers[layer].layer_scale)
    ScaleRows(activations.Residual(rows), weights.layers[layer].layer_scale);
}

absl::Span<const float> Decoder::State::Logits() {
  const int64_t rows = plan.wanted.count();
  const MatrixView x = activations.Residual(rows);
  side_streams.End(rows);
  if (const auto norm = NormParamsOf(spec.head.norm, weights.final_norm)) {
    Normalize(x, *norm, &activations.normed);
  } else {
    SetRows(x, &activations.normed);
  }
  if (weights.head_project != nullptr) {
    const MatrixView narrow = activations.Projected(rows, weights.head_project->out_features());
    weights.head_project->Run(activations.normed, narrow, /*accumulate=*/false);
    SetRows(narrow, &activations.normed);
  }
  const MatrixView logits = activations.Logits(rows);
  weights.lm_head->Run(activations.normed, logits, /*accumulate=*/false);
  CapLogits(logits, spec.head.multiplier, spec.head.softcap);
  return absl::MakeConstSpan(logits.data, static_cast<size_t>(rows * logits.cols));
}

}  // namespace kvasir
