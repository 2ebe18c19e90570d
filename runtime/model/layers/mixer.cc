#include "runtime/model/layers/mixer.h"

#include <variant>

#include "runtime/model/weights.h"

namespace kvasir {

Mixer::Mixer(const Model* model, const KvArena* arena, const RopeTables* ropes,
             Activations* activations)
    : model_(*model),
      arena_(*arena),
      ropes_(*ropes),
      activations_(*activations),
      attention_(model, arena, ropes, activations),
      latent_attention_(model->compute_type()),
      state_mixer_(arena, model->compute_type()) {}

void Mixer::Run(int layer, const BatchRows& plan, const StepRows& rows, const Contribution& out) {
  if (ContributesWhenStoring(layer)) {
    Store(layer, plan, out);
  } else if (IsLatent(layer)) {
    StoreLatent(layer, plan);
    AttendLatent(layer, rows, out);
  } else if (model_.spec().stores(layer)) {
    attention_.Run(layer, plan, out);
  } else {
    attention_.Attend(layer, rows, out);
  }
}

void Mixer::Store(int layer, const BatchRows& plan, const Contribution& all) {
  if (ContributesWhenStoring(layer)) {
    state_mixer_.Run(layer, model_.spec().layers[layer], model_.weights().layers[layer], plan,
                     activations_.normed, all.rows);
  } else if (IsLatent(layer)) {
    StoreLatent(layer, plan);
  } else {
    attention_.StoreKv(layer, plan);
  }
}

void Mixer::Attend(int layer, const StepRows& rows, const Contribution& out) {
  if (ContributesWhenStoring(layer)) return;
  if (IsLatent(layer)) {
    AttendLatent(layer, rows, out);
  } else {
    attention_.Attend(layer, rows, out);
  }
}

bool Mixer::IsLatent(int layer) const {
  const AttentionSpec* attention = model_.spec().layers[layer].attention();
  return attention != nullptr && attention->latent.has_value();
}

void Mixer::StoreLatent(int layer, const BatchRows& plan) {
  const AttentionSpec& spec = model_.spec().attention(layer);
  latent_attention_.StoreKv(spec, std::get<AttentionWeights>(model_.weights().layers[layer].mixer),
                            ropes_.view(spec.rope), activations_.normed, plan.all.positions,
                            plan.WrittenOf(arena_.layout(), layer).slot_blocks, arena_.View(layer));
}

void Mixer::AttendLatent(int layer, const StepRows& rows, const Contribution& out) {
  const AttentionSpec& spec = model_.spec().attention(layer);
  latent_attention_.Attend(spec, std::get<AttentionWeights>(model_.weights().layers[layer].mixer),
                           ropes_.view(spec.rope), activations_.normed, rows.positions,
                           rows.GroupOf(arena_.layout(), layer).every, arena_.View(layer), out.rows,
                           out.accumulate);
}

}  // namespace kvasir
